"""When a checkpoint is written: by the clock, after every epoch, and when a signal asks the run to stop."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..configuration.overrides import quoted
from ..state import State
from . import checkpoint, sharded
from .background import Beside, Copies

AGAIN = 2.0  # seconds after which a second Ctrl-C is meant; launchers repeat at once what a terminal has sent to all
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
]


def listened_to() -> list[signal.Signals]:
    """Signals that stop a run; without SIGHUP, which a closed terminal sends, under ``nohup``."""
    ignored = [name for name in SIGNALS if name.name == "SIGHUP" and signal.getsignal(name) is signal.SIG_IGN]
    return [number for number in SIGNALS if number not in ignored]


class Stopped(Exception):
    """A signal stopped the run; ``last.pt`` holds everything. ``number`` is the signal's."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message, number)
        self.number = number

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass
class Saver:
    """Writes the checkpoints of one run into ``out``; used as a context, it listens for signals.

    Attributes:
        config: kept in every checkpoint.
        steps, minutes: how often one is written within an epoch; None is never.
    """

    out: Path
    config: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    minutes: float | None = None
    heard: int = 0  # number of the signal that came
    stopped: int = 0  # and of the one that ended the run
    saved: float = field(default_factory=time.monotonic)
    _asked: set[int] = field(default_factory=set)  # all that came
    _before: dict[int, Any] = field(default_factory=dict)
    _children: Any = None  # what ended processes were met with before
    _pressed: float | None = None  # when Ctrl-C came first
    _beside: Beside = field(default_factory=Beside)
    _copies: Copies = field(default_factory=Copies)
    _parts: sharded.SaverBeside | None = None

    def __enter__(self) -> Saver:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python forbids handlers
            self._before = {number: signal.signal(number, self._hear) for number in listened_to()}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        try:
            self.wait()
        except Exception as failure:
            if error is None:
                raise
            print(failure, file=sys.stderr, flush=True)  # another error is on its way to the user
        if self._parts is not None:
            self._parts.close()
        before, self._before = self._before, {}
        for number, handler in before.items():
            signal.signal(number, handler)
        if self._children is not None:
            signal.signal(signal.SIGCHLD, self._children)
        self._children = None
        if kind in (None, Stopped):  # SIGUSR2 may have come while SIGTERM was answered, or in the last epoch
            for number in self._asked - {self.stopped, signal.SIGINT}:
                if callable(before[number]):
                    signal.raise_signal(number)

    def _hear(self, number: int, _frame: object) -> None:
        """Remember the signal; only a second Ctrl-C, some time after the first, does what it did before.

        SIGTERM may come several times for one request: to all processes of a job, and again from those that
        started them.
        """
        self.heard = number
        self._asked.add(number)
        if self._children is None and hasattr(signal, "SIGCHLD"):
            # The same signal may end loader processes; torch would raise that, even amid the saving
            self._children = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if number == signal.SIGINT:
            now = time.monotonic()
            self._pressed = self._pressed or now
            if now - self._pressed > AGAIN:
                signal.signal(number, self._before[number])
                signal.raise_signal(number)

    def after_step(self, state: State) -> None:
        """Save if it is time.

        Raises:
            Stopped: after saving, if a signal came to any process of the run.
        """
        by_steps = bool(self.steps) and state.step % (self.steps or 1) == 0
        by_clock = self.minutes is not None and time.monotonic() - self.saved > 60 * self.minutes
        # A signal that comes meanwhile is heard after the next step, by all
        heard, due = state.world.largest(self.heard, by_steps or by_clock)
        self._beside.check()
        if heard:
            self.save(state)
            self.stop(state, heard)
        if due:
            self.save_beside(state)

    def save(self, state: State, best: bool = False) -> None:
        """Write last.pt (a sharded run: last.dcp), and before it best.pt if it is the best so far.

        Raises:
            OSError: it cannot be written, or the one before it could not.
        """
        self.wait()
        if state.sharded:
            if best:
                sharded.save_best(state, self.out / checkpoint.BEST, self.config)
            sharded.save(state, self.out / sharded.LAST, self.config)
        elif state.world.main:
            checkpoint.save(state, self.out / checkpoint.LAST, self.config, best)
        self.saved = time.monotonic()

    def save_beside(self, state: State) -> None:
        """Copy everything and let a thread write the copy, once it has written the one before.

        What it raises is raised after the next step, or by the next that waits. Nothing may be told of this
        checkpoint before `wait`.
        """
        self.wait()
        if state.sharded:
            self._parts = self._parts or sharded.SaverBeside(state.world)
            self._beside.start(self._parts.save(state, self.out / sharded.LAST, self.config))
        elif state.world.main:
            content = self._copies.of(checkpoint.content(state, self.config))
            self._beside.start(partial(checkpoint.write, content, self.out / checkpoint.LAST))
        self.saved = time.monotonic()

    def wait(self) -> None:
        """Until the last checkpoint is on the disk.

        Raises:
            OSError: it cannot be written.
        """
        self._beside.wait()

    def stop_if_heard(self, state: State) -> None:
        """After an epoch, which is saved.

        Raises:
            Stopped: a signal came to any process of the run, and there are epochs left.
        """
        (heard,) = state.world.largest(self.heard)
        if heard and state.epoch < state.epochs:
            self.stop(state, heard)

    def last(self, state: State) -> Path:
        """The checkpoint that everything can go on from."""
        return self.out / (sharded.LAST if state.sharded else checkpoint.LAST)

    def stop(self, state: State, number: int) -> None:
        """Raise ``Stopped``, saying how to go on; once all is written, because the first process that ends takes
        the others with it.
        """
        self.stopped = number
        state.world.wait()
        resume = shlex.quote(quoted("resume", str(self.last(state))))
        raise Stopped(
            f"stopped by {signal.Signals(number).name} after step {state.step} (epoch {state.epoch + 1}, "
            f"batch {state.batch}); go on with {resume}",
            number,
        )
