"""The two forms of a checkpoint: one file, or a folder with a part of each process of a sharded run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..state import State
from . import checkpoint, conversion, sharded


class Writer(Protocol):
    """Writes the checkpoints of one run; every process of the run has one, and all call it together."""

    def save(self, state: State, folder: Path, config: dict[str, Any], best: bool = False) -> None:
        """Write the newest checkpoint of a run folder while training waits, and best.pt if it is the ``best``.

        Raises:
            OSError: it cannot be written; the checkpoint before it stays.
        """

    def beside(self, state: State, folder: Path, config: dict[str, Any]) -> Callable[[], None]:
        """Copy everything; the function returned writes the copy, in another thread."""

    def close(self) -> None:
        """Release the memory for copies."""


@dataclass(frozen=True)
class Form:
    """How a checkpoint is written and read.

    Attributes:
        last, previous: names of the newest checkpoint in a run folder and of the one before.
        read: path -> all of it, tensors whole and on the CPU.
        progress: path -> all but weights and moments, as far as the form allows to leave them unread.
        written: path -> the time when it was written, in seconds since the epoch.
        writer: makes a `Writer`.
    """

    last: str
    previous: str
    read: Callable[[Path], dict[str, Any]]
    progress: Callable[[Path], dict[str, Any]]
    written: Callable[[Path], float]
    writer: Callable[[], Writer]


FILE = Form(
    checkpoint.LAST,
    checkpoint.PREVIOUS[checkpoint.LAST],
    checkpoint.read,
    lambda path: checkpoint.read(path, whole=False),
    lambda path: path.stat().st_mtime,
    checkpoint.Writer,
)
PARTS = Form(
    checkpoint.LAST_PARTS,
    checkpoint.PREVIOUS[checkpoint.LAST_PARTS],
    conversion.read,
    sharded.read_progress,
    lambda path: max(part.stat().st_mtime for part in [path, *path.glob(sharded.PROGRESS)]),
    sharded.Writer,
)
NAMES = [FILE.last, PARTS.last, FILE.previous, PARTS.previous]


def of(path: Path) -> Form:
    """The form of a checkpoint, which need not exist."""
    return PARTS if path.is_dir() or path.suffix == ".dcp" else FILE


def used_by(state: State) -> Form:
    """The form that a run writes."""
    return PARTS if state.sharded else FILE
