"""When a checkpoint is written: by the clock, after every epoch, and when a signal asks the run to stop."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import checkpoint, sharded
from .state import State

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]


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
    saved: float = field(default_factory=time.monotonic)
    _before: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> Saver:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python forbids handlers
            self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _hear(self, number: int, _frame: object) -> None:
        """Remember the first signal; a second one of its kind does what it did before."""
        self.heard = number
        signal.signal(number, self._before[number])

    def after_step(self, state: State) -> None:
        """Save if it is time.

        Raises:
            Stopped: after saving, if a signal came to any process of the run.
        """
        by_steps = bool(self.steps) and state.step % (self.steps or 1) == 0
        by_clock = self.minutes is not None and time.monotonic() - self.saved > 60 * self.minutes
        self.heard, due = state.world.largest(self.heard, by_steps or by_clock)
        if self.heard or due:
            self.save(state)
        if self.heard:
            self.stop(state)

    def save(self, state: State, best: bool = False) -> None:
        """Write last.pt (a sharded run: last.dcp), and best.pt too if it is the best so far."""
        if state.sharded:
            sharded.save(state, self.out / sharded.LAST, self.config)
            if best:
                sharded.save_best(state, self.out / checkpoint.BEST, self.config)
        elif state.world.main:
            checkpoint.save(state, self.out / checkpoint.LAST, self.config)
            if best:
                checkpoint.keep_best(self.out)
        self.saved = time.monotonic()

    def after_epoch(self, state: State, best: bool) -> None:
        """Save; see ``after_step``."""
        self.save(state, best)
        (self.heard,) = state.world.largest(self.heard)
        if self.heard and state.epoch < state.epochs:
            self.stop(state)

    def last(self, state: State) -> Path:
        """The checkpoint that everything can go on from."""
        return self.out / (sharded.LAST if state.sharded else checkpoint.LAST)

    def stop(self, state: State) -> None:
        """Raise ``Stopped``, saying how to go on."""
        raise Stopped(
            f"stopped by {signal.Signals(self.heard).name} after step {state.step} (epoch {state.epoch + 1}, "
            f"batch {state.batch}); go on with resume={self.last(state)}",
            self.heard,
        )
