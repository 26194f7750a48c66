"""What FFmpeg reports besides exceptions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import av.logging

__all__ = ["errors_told"]


@contextlib.contextmanager
def errors_told() -> Iterator[list[str]]:
    """A list that holds, after the block, the errors that FFmpeg logged in it, in any thread."""
    before = av.logging.get_level()
    told: list[str] = []
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture(local=False) as records:
            try:
                yield told
            finally:
                told += [message.strip() for _, _, message in records if message.strip()]
    finally:
        av.logging.set_level(before)
