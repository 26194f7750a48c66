"""Says what is being done while an export takes long."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

Say = Callable[[str], None]
FIRST, EVERY = 5.0, 15.0
"""Seconds after which a step is first mentioned, and from one mention to the next."""


@contextlib.contextmanager
def step(what: str, say: Say | None) -> Iterator[None]:
    """Call ``say`` with what is done in the block, and for how long, if that takes more than a few seconds.

    Args:
        what: Such as ``"writing model.onnx"``.
        say: Prints a line; None says nothing.
    """
    if say is None:
        yield
        return
    begin, ended = time.monotonic(), threading.Event()

    def watch() -> None:
        wait = FIRST
        while not ended.wait(wait):
            say(f"{what}: {time.monotonic() - begin:.0f} s so far")
            wait = EVERY

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
