"""Output that cannot be written (closed pipe, full disk) must not end a run."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class Patient:
    """A text stream that drops what cannot be written, instead of raising. Everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.failure = stream, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Also what the stream's encoding lacks, such as the names of files that are not UTF-8: escaped."""
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            return self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError) as error:  # no reader, a closed terminal, a full disk; a closed stream
            self._failed(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if not self.failure:
            self.failure = getattr(error, "strerror", None) or str(error)
            if self is sys.stdout:
                print(f"output cannot be written ({self.failure}); the run continues", file=sys.stderr)

    def give_up(self) -> None:
        """After a failure: let the interpreter's last flush go nowhere, which would fail again and with noise."""
        if self.failure:
            with contextlib.suppress(OSError, ValueError):
                silence(self._stream)


def silence(stream: TextIO) -> None:
    """Send what a stream still holds, and all that follows, to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextlib.contextmanager
def nothing_on_stdout() -> Iterator[None]:
    """Within the block, what libraries write to standard output goes to standard error.

    gloo of torch 2.8 reports its connections there, in the middle of a command's results.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # closed
        yield
        return
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """Within the block, printing does not raise."""
    if isinstance(sys.stdout, Patient):
        yield
        return
    before = sys.stdout, sys.stderr
    streams = [Patient(stream) for stream in before]
    sys.stdout, sys.stderr = streams  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in streams:
            stream.flush()
            stream.give_up()
