"""Numbers of a run sent to TensorBoard or Weights & Biases; metrics.csv is written whatever is chosen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vimzoo.errors import UsageError

from ..state import State

TRACKERS = ("tensorboard", "wandb")
WANDB_ID = "wandb.id"


def nothing(*_: Any) -> None:
    """No tracker."""


@dataclass(frozen=True)
class Tracker:
    """Where numbers go: ``write(names to numbers, step)``, and ``close()`` at the end; ``every`` so many steps."""

    write: Callable[[dict[str, float], int], None] = nothing
    close: Callable[[], None] = nothing
    every: int = 10

    def step(self, state: State) -> None:
        """Loss, learning rate and gradient norm, now and then."""
        if self.write is not nothing and state.step % self.every == 0:
            self.write(
                {"step/loss": state.loss, "step/lr": state.lr, "step/grad_norm": state.norm}, state.step
            )

    def epoch(self, row: dict[str, float], step: int) -> None:
        """A row of metrics.csv."""
        self.write({f"epoch/{name}": value for name, value in row.items() if name != "step"}, step)


def open_tracker(
    name: str | None,
    out: Path,
    cfg: dict[str, Any],
    step: int = 0,
    main: bool = True,
    begun: Path | None = None,
) -> Tracker:
    """A tracker that writes into the run folder ``out``.

    A resumed run continues its curves from ``step``, also in another folder: TensorBoard's files are copied
    there, and Weights & Biases gets the same id. Its own environment variables apply: ``WANDB_MODE=offline`` keeps
    everything in ``out/wandb``.

    Args:
        begun: the folder of the run that is continued.

    Raises:
        UsageError: an unknown name, or its package is not installed or refuses.
    """
    if name is not None and name not in TRACKERS:
        raise UsageError(f"run.tracker={name}: expected null, {' or '.join(TRACKERS)}")
    if name is None or not main:
        return Tracker()
    try:
        return _tensorboard(out, step, begun) if name == "tensorboard" else _wandb(out, cfg, begun)
    except ImportError as error:
        raise UsageError(f"run.tracker={name}: pip install 'vimzoo[track]' installs it ({error})") from error


def _tensorboard(out: Path, step: int, begun: Path | None) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter

    folder = out / "tensorboard"
    if begun and (begun / folder.name).is_dir() and not folder.exists():
        shutil.copytree(begun / folder.name, folder)
    writer = SummaryWriter(str(folder), purge_step=step + 1)  # that step itself is done and written

    def write(numbers: dict[str, float], at: int) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, at)

    return Tracker(write, writer.close)


def _wandb(out: Path, cfg: dict[str, Any], begun: Path | None) -> Tracker:
    import wandb

    out.mkdir(parents=True, exist_ok=True)
    own = out / WANDB_ID
    ids = [folder / WANDB_ID for folder in (out, begun) if folder and (folder / WANDB_ID).exists()]
    same = {"id": ids[0].read_text().strip(), "resume": "allow"} if ids else {}
    try:
        run = wandb.init(
            project="vimzoo", name=out.name, dir=str(out), config=cfg, allow_val_change=True, **same
        )
    except wandb.Error as error:
        raise UsageError(f"run.tracker=wandb: {error} WANDB_MODE=offline needs no account") from error
    own.write_text(run.id + "\n")
    return Tracker(lambda numbers, at: run.log(numbers, step=at), run.finish)
