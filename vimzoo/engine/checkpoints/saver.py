"""When checkpoints are written: at intervals, after every epoch, and when a signal asks the run to stop."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..configuration.overrides import quoted
from ..state import State
from . import forms
from .background import Beside

AGAIN = 2.0  # seconds after which a second Ctrl-C is meant; launchers repeat at once what a terminal has sent to all
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
]


def listened_to() -> list[signal.Signals]:
    """Signals that stop a run; under ``nohup`` SIGHUP (a closed terminal) is not one of them."""
    ignored = [name for name in SIGNALS if name.name == "SIGHUP" and signal.getsignal(name) is signal.SIG_IGN]
    return [number for number in SIGNALS if number not in ignored]


class Stopped(Exception):
    """A signal stopped the run after it was saved; ``number`` is the signal."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message, number)
        self.number = number

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass
class Saver:
    """Writes the checkpoints of one run into ``out``; as a context manager it also handles signals.

    Attributes:
        config: stored in every checkpoint.
        steps, minutes: how often to save within an epoch; None is never.
    """

    out: Path
    config: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    minutes: float | None = None
    heard: int = 0  # the last signal received
    stopped: int = 0  # the signal that ended the run
    saved: float = field(default_factory=time.monotonic)
    _asked: set[int] = field(default_factory=set)  # all signals received
    _before: dict[int, Any] = field(default_factory=dict)
    _children: Any = None  # the original SIGCHLD handler
    _pressed: float | None = None  # time of the first Ctrl-C
    _beside: Beside = field(default_factory=Beside)
    _writer: forms.Writer | None = None

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
            print(failure, file=sys.stderr, flush=True)  # do not hide the original error
        if self._writer is not None:
            self._writer.close()
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
        """Remember the signal; a second Ctrl-C, at least `AGAIN` seconds later, triggers the original handler.

        SIGTERM may arrive several times for one request: launchers repeat to each process what all have received.
        """
        self.heard = number
        self._asked.add(number)
        if self._children is None and hasattr(signal, "SIGCHLD"):
            # The signal may also end loader processes; torch's SIGCHLD handler would raise in the middle of a save
            self._children = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if number == signal.SIGINT:
            now = time.monotonic()
            self._pressed = self._pressed or now
            if now - self._pressed > AGAIN:
                signal.signal(number, self._before[number])
                signal.raise_signal(number)

    def after_step(self, state: State) -> None:
        """Save if it is due.

        Raises:
            Stopped: after saving, if any process of the run received a signal.
        """
        by_steps = bool(self.steps) and state.step % (self.steps or 1) == 0
        by_clock = self.minutes is not None and time.monotonic() - self.saved > 60 * self.minutes
        # A signal that arrives from here on is handled after the next step, in all processes
        heard, due = state.world.largest(self.heard, by_steps or by_clock)
        self._beside.check()
        if heard:
            self.save(state)
            self.stop(state, heard)
        if due:
            self.save_beside(state)

    def save(self, state: State, best: bool = False) -> None:
        """Write last.pt (last.dcp in a sharded run), preceded by best.pt if this is the best epoch so far.

        Raises:
            OSError: this checkpoint or the one being written in the background cannot be written.
        """
        self.wait()
        self._writer_of(state).save(state, self.out, self.config, best)
        self.saved = time.monotonic()

    def save_beside(self, state: State) -> None:
        """Copy everything and write the copy in a background thread, after the previous one is done.

        Its errors are raised after the next step, or by the next call that waits. Do not report this checkpoint before
        `wait` has returned.
        """
        self.wait()
        self._beside.start(self._writer_of(state).beside(state, self.out, self.config))
        self.saved = time.monotonic()

    def wait(self) -> None:
        """Block until the last checkpoint is on the disk.

        Raises:
            OSError: it cannot be written.
        """
        self._beside.wait()

    def stop_if_heard(self, state: State) -> None:
        """Stop after an epoch that is saved.

        Raises:
            Stopped: any process of the run received a signal, and there are epochs left.
        """
        (heard,) = state.world.largest(self.heard)
        if heard and state.epoch < state.epochs:
            self.stop(state, heard)

    def last(self, state: State) -> Path:
        """The path of the newest checkpoint."""
        return self.out / forms.used_by(state).last

    def _writer_of(self, state: State) -> forms.Writer:
        self._writer = self._writer or forms.used_by(state).writer()
        return self._writer

    def stop(self, state: State, number: int) -> None:
        """Raise ``Stopped`` with the words to resume.

        After a barrier: the launcher kills all processes once one exits.
        """
        self.stopped = number
        state.world.wait()
        resume = shlex.quote(quoted("resume", str(self.last(state))))
        raise Stopped(
            f"stopped by {signal.Signals(number).name} after step {state.step} (epoch {state.epoch + 1}, "
            f"batch {state.batch}); continue with {resume}",
            number,
        )
