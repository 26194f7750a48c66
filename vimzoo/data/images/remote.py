"""Files below a URL, through fsspec: listing, ranged reads, whole writes, retries."""

from __future__ import annotations

import io
import re
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from vimzoo.errors import UsageError

from . import retries
from .files import Found, hidden
from .retries import retried, wait_or_raise

Range = tuple[str, int | None, int | None]
"""A file by its name, and where the bytes begin and end; None for the whole file."""
SILENCE = 30.0  # seconds without a byte after which a connection counts as broken
THREADS = 32  # requests at once where fsspec makes one at a time
HEADER_BYTES = 16384  # read at once among the headers of a tar file
VERSION = ("ETag", "etag", "generation", "md5Hash", "Content-MD5", "LastModified", "Last-Modified", "mtime")
"""File attributes that change when a file changes, besides its size."""


def is_remote(root: str) -> bool:
    """Whether data are below a URL, other than ``file://``."""
    return bool(re.match(r"[a-z][a-z0-9+.-]+://", root)) and not root.startswith("file://")


def local_path(root: str) -> Path:
    """The folder of a path or of a ``file://`` URL."""
    return Path(root.removeprefix("file://")).expanduser()


@dataclass(frozen=True)
class Remote:
    """The files below ``url``, by names relative to it. It may be used in any process and thread."""

    url: str

    def path(self, name: str) -> str:
        """The URL of a file."""
        name = quote(name) if self._http else name
        return f"{self.url.rstrip('/')}/{name}" if name else self.url.rstrip("/")

    @property
    def _http(self) -> bool:
        return self.url.startswith(("http://", "https://"))

    def _system(self) -> Any:
        """fsspec's file system; it keeps one for each process and thread."""
        try:
            import fsspec

            options = {}
            if self._http:
                import aiohttp

                timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
                options["client_kwargs"] = {"timeout": timeout}
            return fsspec.core.url_to_fs(self.url, **options)[0]
        except ImportError as error:
            raise UsageError(
                f"`root`={self.url}: pip install 'vimzoo[remote]' installs what reads it ({error})"
            ) from error
        except ValueError as error:
            raise UsageError(f"`root`={self.url}: {error}; expected a folder or a URL of fsspec") from error

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """Bytes of files, many at once.

        Raises:
            FileNotFoundError: there is no such file. Unreachable: it cannot be read, also after some time.
        """
        if not ranges:
            return []
        system, results, left = self._system(), [b""] * len(ranges), list(range(len(ranges)))
        for delay in (*retries.DELAYS, None):
            names, starts, ends = (list(column) for column in zip(*(ranges[p] for p in left), strict=True))
            try:
                answers = system.cat_ranges([self.path(n) for n in names], starts, ends, on_error="return")
            except Exception as error:
                answers = [error] * len(left)
            failed = []
            for place, answer in zip(left, answers, strict=True):
                if (problem := _problem(self.path(ranges[place][0]), answer, ranges[place])) is None:
                    results[place] = answer
                else:
                    failed.append((place, problem))
            if not (left := [place for place, _ in failed]):
                return results
            wait_or_raise(self.path(ranges[left[0]][0]), failed[0][1], delay)
        raise AssertionError

    def info(self, name: str) -> tuple[int, str]:
        """The size of a file in bytes, and a version string that changes with its content.

        Raises:
            FileNotFoundError, Unreachable: as `read`. UsageError: the server does not tell the size.
        """
        path = self.path(name)
        found = retried(lambda: self._system().info(path), path)
        if found.get("size") is None:
            raise UsageError(f"`root`: {path}: the server does not report its size; expected byte ranges")
        return found["size"], " ".join(str(found[key]) for key in VERSION if key in found)

    def infos(self, names: Sequence[str]) -> list[tuple[int, str]]:
        """As `info`, of many files."""
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(self.info, names))

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all; folders are made.

        Raises:
            OSError, Unreachable: it cannot be written.
        """
        system, path = self._system(), self.path(name)
        place, _, base = path.rpartition("/")
        if not self._stores_objects:  # there a file appears when all of it is there
            base = f".{uuid.uuid4().hex}.part"
        retried(lambda: system.makedirs(place, exist_ok=True), place)
        retried(lambda: system.pipe_file(f"{place}/{base}", data), path)
        if not self._stores_objects:
            retried(lambda: system.mv(f"{place}/{base}", path), path)

    @property
    def _stores_objects(self) -> bool:
        return self.url.startswith(("s3://", "gs://", "gcs://", "az://", "abfs://", "abfss://"))

    def open(self, name: str, size: int) -> io.BufferedReader:
        """A file of known size, to read headers that are far apart."""
        return io.BufferedReader(_File(self, name, size), HEADER_BYTES)

    def pictures(self) -> Found:
        """All pictures, as `find_pictures` finds those of a local folder.

        Raises:
            FileNotFoundError, Unreachable: as `read`.
        """
        files, found = self.walk()
        for name in files:
            found.add(name)
        return found.sorted()

    def walk(self, depth: int | None = None) -> tuple[list[str], Found]:
        """All files at most ``depth`` folders deep; what is hidden is counted only.

        Raises:
            FileNotFoundError, Unreachable: as `read`.
        """
        files: list[str] = []
        found, level = Found(), [""]
        with ThreadPoolExecutor(THREADS) as pool:
            while level:
                listings, level = list(pool.map(self._list, level)), []
                for name, folder in sorted(entry for listing in listings for entry in listing):
                    if hidden(name.rpartition("/")[2]):
                        found.hidden += 1
                    elif not folder:
                        files.append(name)
                    elif depth is None or name.count("/") < depth:
                        level.append(name)
                        found.folders += [name] if "/" not in name else []
        return sorted(files), found

    def _list(self, folder: str) -> list[tuple[str, bool]]:
        """Names in a folder, and whether they are folders."""
        system, path = self._system(), self.path(folder)
        entries = retried(lambda: system.ls(path, detail=True), path)
        above = system._strip_protocol(path).rstrip("/")
        listed = []
        for entry in entries:
            base = entry["name"].rstrip("/").removeprefix(above).strip("/")
            if (
                base and "/" not in base and not (self._http and re.search("[?#]", base))
            ):  # a page's other links
                base = unquote(base) if self._http else base
                listed.append((f"{folder}/{base}" if folder else base, entry["type"] == "directory"))
        return listed


class Fetched:
    """Contents by key, from a cache if they are there, else from a server.

    Args:
        remote: the server. range_of: where the content of a key is.
        kept: the cache, with ``get(key)`` and ``put(key, content)``; None for none.
        check: refuses content of a key, before it is kept.
    """

    def __init__(
        self,
        remote: Remote,
        range_of: Callable[[Any], Range],
        kept: Any = None,
        check: Callable[[Any, bytes], None] | None = None,
    ) -> None:
        self.remote, self.range_of, self.kept, self.check = remote, range_of, kept, check
        self.ready: dict[Any, bytes] = {}

    def ahead(self, keys: Sequence[Any]) -> None:
        """Read many at once, to be asked for next."""
        try:
            self.ready = self._read(keys)
        except FileNotFoundError:
            self.ready = {}  # the one that is missing is told when it is asked for

    def __getitem__(self, key: Any) -> bytes:
        content = self.ready.get(key)
        return self._read([key])[key] if content is None else content

    def _read(self, keys: Sequence[Any]) -> dict[Any, bytes]:
        found = {} if self.kept is None else {key: self.kept.get(key) for key in keys}
        missing = [key for key in dict.fromkeys(keys) if found.get(key) is None]
        for key, content in zip(missing, self.remote.read(list(map(self.range_of, missing))), strict=True):
            if self.check is not None:
                self.check(key, content)
            if self.kept is not None:
                self.kept.put(key, content)
            found[key] = content
        return found


class _File(io.RawIOBase):
    """A remote file in which every read is a request."""

    def __init__(self, remote: Remote, name: str, size: int) -> None:
        self.remote, self.name, self.size, self.position = remote, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = max(0, offset + (0, self.position, self.size)[whence])
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        end = min(self.position + len(buffer), self.size)
        if end <= self.position:
            return 0
        (content,) = self.remote.read([(self.name, self.position, end)])
        buffer[: len(content)] = content
        self.position = end
        return len(content)


def _problem(path: str, answer: bytes | Exception, wanted: Range) -> Exception | None:
    """What is wrong with an answer."""
    if isinstance(answer, Exception):
        return answer
    _, start, end = wanted
    if start is None or end is None or len(answer) == end - start:
        return None
    if len(answer) > end - start:
        return UsageError(f"`root`: {path}: the server sends whole files; expected byte ranges (HTTP 206)")
    return ConnectionError(f"{len(answer)} bytes came, expected {end - start}")
