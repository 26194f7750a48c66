"""Going on from a checkpoint, whichever way it was written."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from vimzoo.errors import UsageError

from ..configuration.words import FOLLOWS, flat
from ..processes.parallel import World
from ..state import State
from . import checkpoint, sharded
from .older import updated
from .remembered import check_resumed

# Settings that decide which images a batch holds, beside those that `Batching.order` names
ORDER = [("run", "seed"), ("run", "limit_batches")]
# Settings that a run goes on with or not at all
FIXED = ("task", "optim.opt", "optim.layer_decay")
# Settings of weights to begin from, which a run that goes on does not read
START = ("model.start", "model.pretrained")
# Settings that do not change what is computed
OF_NO_EFFECT = ("resume", "run.timeout")


def wanted(asked: str | None, out: Path) -> Path | None:
    """The checkpoint to go on from: a file, that of a run folder, or of this one (``auto``) if a job before left one.

    Raises:
        UsageError: there is none in the folder asked for.
    """
    if asked is None or asked == "auto":
        return next(iter(newest_first(out)), None) if asked else None
    begun: Path | None = Path(asked).expanduser()
    if begun and begun.is_dir() and begun.suffix != ".dcp":
        begun = next(iter(newest_first(begun)), None)
        if begun is None:
            raise UsageError(
                f"resume={asked}: no checkpoint in that folder; expected a run folder or its last.pt"
            )
    return begun


class Taken(UsageError):
    """A run folder that belongs to another run."""


def find(asked: str | None, out: Path) -> Path | None:
    """As `wanted`; also refuses to write where there is another run.

    Raises:
        UsageError: see `wanted`.
        Taken: ``out`` holds another run, which would be lost.
    """
    own, begun = wanted("auto", out), wanted(asked, out)
    if own and (begun is None or begun.parent.resolve() != out.resolve()):
        raise Taken(
            f"{out} holds a run already ({own.name}); expected resume=auto to go on with it, or another hydra.run.dir"
        )
    return begun


def newest_first(run: Path) -> list[Path]:
    """The checkpoints in a run folder that a run can go on from.

    Usually they have one form. After a run that was ended while it changed the form, the step that a checkpoint was
    written at decides, and the time where one cannot be read.
    """
    names = [*checkpoint.FORMS, *checkpoint.FORMS.values()]
    found = [path for path in (run / name for name in names) if path.exists()]
    if len({path.suffix for path in found}) > 1:
        steps = {path: _step(path) for path in found}
        known = None not in steps.values()
        found.sort(key=lambda path: (steps[path] if known else 0, _time(path)), reverse=True)
    return found


def _step(path: Path) -> int | None:
    try:
        return (sharded.read_progress(path) if is_sharded(path) else checkpoint.read(path, whole=False))[
            "step"
        ]
    except checkpoint.Unreadable:
        return None


def _time(path: Path) -> float:
    return max(part.stat().st_mtime for part in [path, *path.glob(sharded.PROGRESS)])


def _attempts(path: Path) -> list[Path]:
    """A checkpoint, and those that are taken in its place if it is missing or damaged, newest first."""
    found = newest_first(path.parent) if path.name in checkpoint.FORMS else []
    return [path, *found[found.index(path) + 1 if path in found else 0 :]]


def _first_readable(paths: list[Path], read: Callable[[Path], Any], say: bool = True) -> Any:
    """What ``read`` returns for the first of ``paths`` that is readable; if it is not the one asked for, says so.

    Raises:
        Unreadable: none is; the reason is that of the first.
    """
    failed: checkpoint.Unreadable | None = None
    for path in paths:
        try:
            content = read(path)
        except checkpoint.Unreadable as error:
            failed = failed or error
            continue
        if failed and say:
            print(f"{failed}; going on from {path}, step {content['step']}", file=sys.stderr, flush=True)
        return content
    assert failed is not None
    raise failed


def configuration(path: Path) -> dict[str, Any]:
    """The settings that the run of a checkpoint was told, from beside it or from within.

    Raises:
        UsageError: there is no readable checkpoint.
    """
    try:
        return updated(yaml.safe_load((path.parent / "config.yaml").read_text()))
    except FileNotFoundError:
        return _first_readable(_attempts(path), _progress)["config"]


def _progress(path: Path) -> dict[str, Any]:
    return sharded.read_progress(path) if is_sharded(path) else checkpoint.read(path)


def is_sharded(path: Path) -> bool:
    """Whether a checkpoint is a folder of parts."""
    return path.is_dir() or path.suffix == ".dcp"


def load(state: State, path: Path, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """Take weights, average, moments and loss scale of a checkpoint; returns all that it holds besides.

    Args:
        config: the settings of now, if they may be others than the checkpoint's.

    Raises:
        UsageError: it is missing, damaged, of another model or kind of run, or a setting that has to stay is another.
    """

    def take(path: Path) -> dict[str, Any]:
        if parts := state.sharded and is_sharded(path):
            content = sharded.read_progress(path)
        else:
            content = _sent(state.world, sharded.read if is_sharded(path) else checkpoint.read, path)
        _check_fixed(differences(content.get("config"), config), path)
        if parts:
            sharded.restore(state, path, content)
        else:
            whole = sharded.divided_training(state, content) if state.sharded else content
            checkpoint.load_training(state, whole, path)
        return content

    attempts = state.world.first(lambda: _attempts(path))
    content = _first_readable(attempts, take, say=state.world.main)
    if state.ema is not None and content.get("ema_rounding") is not None:
        state.ema._sr_generator.set_state(content["ema_rounding"])
    if state.scaler.is_enabled() and content.get("scaler"):
        state.scaler.load_state_dict(content["scaler"])
    return content


def _sent(world: World, read: Callable[[Path], dict[str, Any]], path: Path) -> dict[str, Any]:
    """A file's content as process 0 reads it: the others may have no such file."""
    content: dict[str, Any] = {}
    world.first(lambda: content.update(read(path)))
    return world.send(content)


def restore(state: State, path: Path, config: dict[str, Any] | None = None) -> list[str]:
    """Continue ``state`` from a checkpoint, in the middle of an epoch if it was written there.

    Settings may be others than before; see the document on training. The learning rate goes on at the same share of
    the schedule, however many updates an epoch has now.

    Returns:
        The settings that are others than before, as a person reads them.

    Raises:
        UsageError: see ``load``; also when nothing is left to do, the batches of the epoch would change, or a setting
            is another one that has to stay. A run that goes on by itself (``auto``) may have been ended after its last
            epoch, and then finishes.
    """
    config = config or {}
    built = [dict(group) for group in state.optimizer.param_groups]
    content = load(state, path, config)
    check_resumed(content.get("data"), state.data, path, bool(content.get("batch")))
    changes = differences(content.get("config"), config)
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
        _check_order(content["config"], config, path, state)
    rate = state.lr
    _set_optimizer(state, built, changes, path)
    state.ahead = state.epoch * state.updates_per_epoch + state.batch - state.step
    if state.scheduler is not None:
        plateau = getattr(state.scheduler, "lr_scheduler", None)
        if plateau is None:
            state.scheduler.step(state.epoch)
            state.scheduler.step_update(state.step + state.ahead)
        elif content.get("plateau"):
            plateau.load_state_dict(content["plateau"])
    said = [f"{key} {old} -> {new}" for key, (old, new) in changes.items()]
    return [*said, f"learning rate {rate:.1e} -> {state.lr:.1e}"] if said else said


def differences(before: dict[str, Any] | None, now: dict[str, Any] | None) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, each with both values; null where one has no such setting. Without settings, none."""
    if not before or not now:
        return {}
    old, new = flat(updated(before)), flat(now)
    changed = {
        name: (old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)
    }
    return {
        name: (old_value, value)
        for name, (old_value, value) in changed.items()
        if name not in OF_NO_EFFECT and FOLLOWS.get(name) not in changed and not (name in START and not value)
    }


def _check_fixed(changes: dict[str, tuple[Any, Any]], path: Path) -> None:
    """Refuse another value of a setting that has to stay."""
    for key in FIXED:
        if key in changes:
            raise _refused(path, key, *changes[key])
    for key in START:
        if key in changes:
            raise UsageError(f"resume={path}: goes on with the weights of the run; expected no {key}")


def _set_optimizer(
    state: State, built: list[dict[str, Any]], changes: dict[str, tuple[Any, Any]], path: Path
) -> None:
    """Give the optimizer, which has the checkpoint's settings by now, those that have changed.

    Args:
        built: its groups of parameters as the configuration made them.
    """
    changed = {
        name.removeprefix("optim."): pair for name, pair in changes.items() if name.startswith("optim.")
    }
    for group, new in zip(state.optimizer.param_groups, built, strict=True):
        for name, (old, value) in changed.items():
            if name not in group or name not in new:
                raise _refused(path, f"optim.{name}", old, value)
            if name == "lr":  # a schedule that is not a function of time may have lowered it
                group["lr"] = group["lr"] * value / old if old else new["lr"]
                group["initial_lr"] = new.get("initial_lr", new["lr"])
            else:
                group[name] = new[name]


def _refused(path: Path, key: str, old: Any, value: Any) -> UsageError:
    return UsageError(f"resume={path}: {key} was {old}, not {value}; a run that goes on has to keep it")


def _check_order(old: dict[str, Any], new: dict[str, Any], path: Path, state: State) -> None:
    """In the middle of an epoch, its batches must stay what they were."""
    for group, key in [*ORDER, *(("data", name) for name in state.order)] if old and new else ():
        before, now = old[group].get(key), new[group].get(key)
        off = (None, False, 1)  # an older run has no such setting, which means that it is off
        if before != now and not (key not in old[group] and now in off):
            raise UsageError(
                f"resume={path}: it stands in the middle of epoch {state.epoch + 1}, which needs "
                f"{group}.{key}={before}, not {now}"
            )


def roll_back(state: State, out: Path) -> int:
    """Take weights, average, moments and loss scale of the last checkpoint; returns its step. Rates stay."""
    rates = [group["lr"] for group in state.optimizer.param_groups]
    step = load(state, out / (sharded.LAST if state.sharded else checkpoint.LAST))["step"]
    for group, rate in zip(state.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    return step


def load_best(state: State, out: Path) -> None:
    """Take the weights that are evaluated from best.pt of this run."""
    path = out / checkpoint.BEST
    weights = _sent(state.world, _evaluated, path)
    if state.sharded:
        weights = sharded.divided(weights, state.averaged.state_dict())
    checkpoint.load_weights(state.averaged, weights, path)


def _evaluated(path: Path) -> dict[str, Any]:
    content = checkpoint.read(path)
    return content.get("model_ema", content["model"])


def carry_best(resumed: Path, out: Path) -> None:
    """A resumed run may never beat the best epoch of the first one; its file then stays the answer."""
    best = resumed.with_name(checkpoint.BEST)
    if best.is_file() and best.resolve() != (out / checkpoint.BEST).resolve():
        shutil.copyfile(best, out / checkpoint.BEST)
