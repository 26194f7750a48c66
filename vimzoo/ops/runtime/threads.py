"""How many threads a parallel region gets: sharing out a small one costs more than it saves.

Threads meet at the end of every parallel region. On an idle machine that costs microseconds; where another process
has a core, one of them waits until the scheduler gives it a turn, milliseconds each time, and a model has dozens of
regions. ``benchmarks/cpu_threads.py`` measures both; its results are in ``benchmarks/results``.

The number of threads never changes a result of our kernels, and never depends on how busy the machine is.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

from . import native
from .abi import CONSTANTS

__all__ = ["GRAIN", "calling_thread", "for_work"]

GRAIN = CONSTANTS["GRAIN"]
"""Nanoseconds of work on one core that justify waking another thread."""
_logger = logging.getLogger("vimzoo")
_started = False  # an operator has run while several threads were available, so OpenMP threads may exist
_forked = False  # those threads belong to the parent process, from which this one was forked


def counted(number: int, kind: str = "") -> str:
    """A number of threads in words: ``1 thread``, or ``2 CPU threads`` of the kind ``CPU``."""
    return " ".join([str(number), *([kind] if kind else []), "thread" if number == 1 else "threads"])


def for_work(nanoseconds: float) -> int:
    """Threads for a region that would take so long on one core: at most torch's number, at least `GRAIN` each."""
    global _started, _forked
    available = torch.get_num_threads()
    _started = _started or available > 1
    if _forked:
        _forked = False
        _logger.warning(
            "this process was forked after operators had run on several threads, which do not survive a fork: it "
            "runs on one thread; processes started by 'spawn' or 'forkserver' have all of them"
        )
    return max(1, min(available, int(nanoseconds // GRAIN)))


@contextlib.contextmanager
def calling_thread() -> Iterator[None]:
    """Within the block torch's operators and ours run on the calling thread alone; other threads are not affected.

    Without the native library, or where torch has an OpenMP of its own, the block changes nothing.
    """
    setters = _setters() if torch.get_num_threads() > 1 else ()
    before = [(setter, setter(1)) for setter in setters]
    try:
        yield
    finally:
        for setter, number in before:
            setter(number)


@cache
def _setters() -> tuple[Any, ...]:
    """Functions that set the calling thread's number of threads and return the former one: OpenMP's and MKL's.

    `torch.set_num_threads` will not do: it sets the number for all threads of the process.
    """
    library, _ = native.load()
    if library is None:
        return ()
    before = library.set_threads(1)
    shared = torch.get_num_threads() == 1
    library.set_threads(before)
    if not shared:
        return ()
    try:
        mkl = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return library.set_threads, mkl.MKL_Set_Num_Threads_Local
    except (OSError, AttributeError):  # built without MKL, or with another file layout
        return (library.set_threads,)


def _after_fork() -> None:
    """OpenMP's threads are gone in a forked process, which would wait for them for ever: one thread from here on."""
    global _forked
    if _started and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
