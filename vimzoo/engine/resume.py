"""Going on from a checkpoint, whichever way it was written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ..data import UsageError
from . import checkpoint, sharded
from .remembered import check_resumed
from .state import State

# Settings that say which images a batch holds: they must stay when a run goes on in the middle of an epoch
ORDER = [("run", "seed"), ("run", "limit_batches")]
ORDER += [
    ("data", key)
    for key in ("batch_size", "tokens", "sides", "step", "max_aspect", "crop", "crops", "stages")
]


def find(asked: str | None, out: Path) -> Path | None:
    """The checkpoint to go on from: a file, that of a run folder, or of this one (``auto``) if a job before left one.

    Raises:
        UsageError: there is none in the folder asked for, or ``out`` holds another run, which would be lost.
    """
    own = _last(out)
    if asked == "auto":
        return own
    begun = Path(asked) if asked else None
    if begun and begun.is_dir() and begun.suffix != ".dcp":
        begun = _last(begun)
        if begun is None:
            raise UsageError(
                f"resume={asked}: no checkpoint in that folder; expected a run folder or its last.pt"
            )
    if own and (begun is None or begun.parent.resolve() != out.resolve()):
        raise UsageError(
            f"{out} holds a run already ({own.name}); expected resume=auto to go on with it, or another hydra.run.dir"
        )
    return begun


def _last(run: Path) -> Path | None:
    for last, previous in ((checkpoint.LAST, checkpoint.PREVIOUS), (sharded.LAST, sharded.PREVIOUS)):
        if (run / last).exists() or (run / previous).exists():
            return run / last
    return None


def load(state: State, path: Path) -> dict[str, Any]:
    """Take weights, average, moments and loss scale of a checkpoint; returns all that it holds besides.

    Raises:
        UsageError: it is missing, damaged, or of another model or kind of run.
    """
    if path.is_dir() or path.suffix == ".dcp":
        content = sharded.restore(state, path)
    elif state.sharded:
        raise UsageError(f"resume={path}: written by a run that was not sharded; expected run.parallel=ddp")
    else:
        content = checkpoint.read_or_previous(path)
        checkpoint.load_training(state, content, path)
    if state.ema is not None and "ema_rounding" in content:
        state.ema._sr_generator.set_state(content["ema_rounding"])
    if state.scaler.is_enabled() and content.get("scaler"):
        state.scaler.load_state_dict(content["scaler"])
    return content


def restore(state: State, path: Path, config: dict[str, Any] | None = None) -> None:
    """Continue ``state`` from a checkpoint, in the middle of an epoch if it was written there.

    Raises:
        UsageError: see ``load``; also when nothing is left to do, or the batches of the epoch would change. A run
            that goes on by itself (``auto``) may have been ended after its last epoch, and then finishes.
    """
    config = config or {}
    content = load(state, path)
    check_resumed(content.get("data"), state.data, path, bool(content.get("batch")))
    given = state.accumulate
    for name in checkpoint.COUNTERS:
        setattr(state, name, content.get(name, getattr(state, name)))
    state.accumulate = max(given, state.accumulate)  # memory that ran out once would do so again
    if state.epoch >= state.epochs and config.get("resume") != "auto":
        raise UsageError(
            f"resume={path}: {state.epoch} epochs are finished; "
            f"expected run.epochs above that, not {state.epochs}"
        )
    if state.batch:
        _check_order(content["config"], config, path, state.epoch + 1)
    if state.scheduler is not None:
        # The schedule is a function of the step, so a longer run.epochs may continue a shorter run.
        state.scheduler.step(state.epoch)
        state.scheduler.step_update(state.step)
        if content.get("plateau"):
            state.scheduler.lr_scheduler.load_state_dict(content["plateau"])  # type: ignore[attr-defined]


def _check_order(old: dict[str, Any], new: dict[str, Any], path: Path, epoch: int) -> None:
    """In the middle of an epoch, its batches must stay what they were."""
    for group, key in ORDER if old and new else ():
        before, now = old[group].get(key), new[group].get(key)
        if before != now:
            raise UsageError(
                f"resume={path}: it stands in the middle of epoch {epoch}, which needs "
                f"{group}.{key}={before}, not {now}"
            )


def roll_back(state: State, out: Path) -> int:
    """Take weights, average, moments and loss scale of the last checkpoint; returns its step."""
    return load(state, out / (sharded.LAST if state.sharded else checkpoint.LAST))["step"]


def load_best(state: State, out: Path) -> None:
    """Take the weights that are evaluated from best.pt of this run."""
    path = out / checkpoint.BEST
    content = checkpoint.read(path)
    weights = content.get("model_ema", content["model"])
    if state.sharded:
        sharded.load_whole(state.averaged, weights)
    else:
        checkpoint.load_weights(state.averaged, weights, path)


def carry_best(resumed: Path, out: Path) -> None:
    """A resumed run may never beat the best epoch of the first one; its file then stays the answer."""
    best = resumed.with_name(checkpoint.BEST)
    if best.is_file() and best.resolve() != (out / checkpoint.BEST).resolve():
        shutil.copyfile(best, out / checkpoint.BEST)
