"""Retries with increasing delays for requests to a server."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from vimzoo.errors import UsageError

Result = TypeVar("Result")
DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds before a request is made again
BUSY = (408, 425, 429)  # status of a server that may answer later


class Unreachable(RuntimeError):
    """Remote data cannot be read; not an unreadable image, so it ends the run."""


def retried(call: Callable[[], Result], path: str) -> Result:
    """The result of a request for ``path``.

    Raises:
        FileNotFoundError, UsageError, Unreachable: as `wait_or_raise`.
    """
    for delay in (*DELAYS, None):
        try:
            return call()
        except Exception as error:
            wait_or_raise(path, error, delay)
    raise AssertionError


def wait_or_raise(path: str, error: Exception, delay: float | None) -> None:
    """Wait before retrying a request, if a retry may help.

    Args:
        path: what was asked for. delay: in seconds, or None after the last try.

    Raises:
        FileNotFoundError: the server has no such file. Unreachable: another reason why no further try may help, or it
            was the last. UsageError: ``error`` is one.
    """
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception) and _of_connection(cause):
        error = cause  # fsspec reports any failure of its request for a size as this
    status = getattr(error, "status", None)
    if isinstance(error, UsageError):
        raise error
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        raise FileNotFoundError(f"{path}: no such file") from error
    if delay is None or not _of_connection(error) or (status and status < 500 and status not in BUSY):
        said = f"HTTP status {status}" if status else f"{type(error).__name__}: {error}"
        tries = "" if delay is not None else f", {len(DELAYS) + 1} times"
        raise Unreachable(f"{path} cannot be read{tries} ({said})") from error
    time.sleep(delay * random.SystemRandom().uniform(0.5, 1.0))  # the global generator is the run's


def _of_connection(error: Exception) -> bool:
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    return isinstance(error, OSError | TimeoutError) or type(error).__module__.startswith("aiohttp")
