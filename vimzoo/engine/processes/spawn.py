"""Starts one process per device, where no launcher (torchrun, SLURM) has done so."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from vimzoo.errors import UsageError

from ..checkpoints import lookup
from ..checkpoints.saver import Stopped, listened_to
from ..recover import OutOfMemory
from .parallel import ProcessLost, World, joined

EXPECTED = (UsageError, FloatingPointError, Stopped, OutOfMemory, OSError)  # come back as they are
Work = Callable[[dict[str, Any], Path, Sequence[str], World], float]


def spawn(work: Work, cfg: dict[str, Any], out: Path, overrides: Sequence[str]) -> float:
    """Run ``work(cfg, out, overrides, world)`` in ``cfg["devices"]`` processes; returns the result of the first.

    If one runs out of memory, all restart from the last checkpoint with twice as many micro-batches.

    Raises:
        Whatever ``work`` raises.
    """
    while True:
        try:
            return _once(work, cfg, out, overrides)
        except OutOfMemory as error:
            accumulate = 2 * cfg["run"]["accumulate"]
            cfg = {**cfg, "run": {**cfg["run"], "accumulate": accumulate}}
            if lookup.wanted("auto", out):
                cfg["resume"] = "auto"
            print(f"{error}: all processes start again with run.accumulate={accumulate}", file=sys.stderr)


def _once(work: Work, cfg: dict[str, Any], out: Path, overrides: Sequence[str]) -> float:
    answers = multiprocessing.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (work, cfg, out, overrides, f"file://{folder}/meet", answers)
        processes = multiprocessing.start_processes(
            _child, arguments, nprocs=cfg["devices"], join=False, start_method="spawn"
        )
        failure: Any = None
        with _passing_signals_on(processes.pids()[0]) as passed:
            try:
                while not processes.join():
                    pass
            except (multiprocessing.ProcessExitedException, multiprocessing.ProcessRaisedException) as error:
                failure = error
    found: list[Any] = []
    while not answers.empty():
        found.append(answers.get())
    found.sort(
        key=lambda answer: isinstance(answer, ProcessLost)
    )  # those tell no cause, but that another one ended
    killed = getattr(failure, "signal_name", None)
    if found and not isinstance(found[0], Exception):
        return found[0]
    if found and not (killed and isinstance(found[0], ProcessLost)):
        raise found[0]
    if killed == "SIGINT" or failure is None:  # Ctrl-C came before the processes listened
        raise KeyboardInterrupt
    if killed in [signal.Signals(number).name for number in passed]:
        raise Stopped(f"stopped by {killed} before the first step", passed[-1])
    if killed:
        raise ProcessLost(
            f"process {failure.error_index} of {cfg['devices']} was ended by {killed}"
        ) from failure
    raise failure


def _child(
    rank: int,
    work: Work,
    cfg: dict[str, Any],
    out: Path,
    overrides: Sequence[str],
    meet: str,
    answers: multiprocessing.SimpleQueue,
) -> None:
    """The main function of a process; puts its result, or an error meant for the user, into ``answers``."""
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, torch.get_num_threads() // cfg["devices"]))
    try:
        with joined(rank, cfg["devices"], rank, meet, cfg["run"]["timeout"]) as world:
            try:
                best = work(cfg, out, overrides, world)
            except EXPECTED as error:
                answers.put(error)  # before the others notice that this one is gone
                sys.stdout.flush()
                sys.exit(1)  # the others may be waiting for this one; the parent ends them
        if rank == 0:
            answers.put(best)
    except ProcessLost as error:
        answers.put(error)
        sys.exit(1)


@contextlib.contextmanager
def _passing_signals_on(pid: int) -> Iterator[list[int]]:
    """Forward signals to the first process and list them; a terminal sends Ctrl-C to all processes itself."""
    passed: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield passed
        return

    def pass_on(number: int, _frame: object) -> None:
        passed.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    handlers: dict[signal.Signals, Any] = dict.fromkeys(listened_to(), pass_on)
    handlers[signal.SIGINT] = lambda *_: None
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield passed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
