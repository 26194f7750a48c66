"""A web server of a folder on this machine that breaks connections."""

import contextlib
import hashlib
import threading
import time
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote


class Server:
    """Serves ``folder``; of every few requests it refuses one, breaks one off half way, delays one or
    does not answer for a second.

    Attributes:
        url: where. asked: requests by path and method, or status if refused. steady: break nothing. lost: answer
            nothing. lists, ranges: whether it lists folders and serves byte ranges. forbidden: paths refused with 403.
    """

    def __init__(self, folder):
        self.folder, self.steady, self.lost = Path(folder), False, False
        self.lists, self.ranges = True, True
        self.asked, self.forbidden, self.count, self.lock = Counter(), set(), 0, threading.Lock()
        outer = self

        class Handler(SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def __init__(self, *arguments):
                super().__init__(*arguments, directory=str(outer.folder))

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                outer.answer(self, body=False)

            def do_GET(self):
                outer.answer(self, body=True)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # clients that end close connections in use
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, handler, body):
        with self.lock:
            self.count += 1
            turn = 0 if self.steady else self.count % 7
            hangs = not self.steady and self.count % 31 == 5
        if self.lost:
            handler.close_connection = True
            return None
        path = Path(handler.translate_path(handler.path))
        if turn == 1:
            return self.refuse(handler, 503)
        if turn == 2 or hangs:
            time.sleep(1.0 if hangs else 0.05)
        if handler.path in self.forbidden:
            return self.refuse(handler, 403)
        if path.is_dir():
            if not self.lists:
                return self.refuse(handler, 404)
            names = sorted(each.name + ("/" if each.is_dir() else "") for each in path.iterdir())
            content, kind = "".join(f'<a href="{quote(name)}">x</a>' for name in names).encode(), "text/html"
        elif path.is_file():
            content, kind = path.read_bytes(), "application/octet-stream"
        else:
            return self.refuse(handler, 404)
        tag, status = hashlib.md5(content).hexdigest(), 200
        if self.ranges and (wanted := handler.headers.get("Range")):
            first, last = wanted.removeprefix("bytes=").split("-")
            if int(first) >= len(content):
                return self.refuse(handler, 416)
            content, status = content[int(first) : int(last) + 1], 206
        with self.lock:
            self.asked[handler.path, handler.command] += 1
        handler.send_response(status)
        for name, value in (("Content-Length", len(content)), ("Content-Type", kind), ("ETag", f'"{tag}"')):
            handler.send_header(name, str(value))
        handler.end_headers()
        if body and turn == 3:
            handler.wfile.write(content[: len(content) // 2])
            handler.close_connection = True
        elif body:
            handler.wfile.write(content)

    def refuse(self, handler, status):
        with self.lock:
            self.asked[handler.path, status] += 1
        handler.send_response(status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()


@contextlib.contextmanager
def serving(folder):
    """A `Server` of the folder."""
    server = Server(folder)
    thread = threading.Thread(target=server.http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
