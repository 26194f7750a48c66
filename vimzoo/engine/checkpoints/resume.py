"""Resuming from a checkpoint, in whichever form it was written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vimzoo.errors import UsageError

from ..configuration.older import updated
from ..configuration.words import FOLLOWS, flat
from ..processes.parallel import World
from ..state import State
from . import checkpoint, conversion, forms, lookup, sharded
from .remembered import check_resumed

# Settings that decide which images a batch holds, in addition to `Batching.order`
ORDER = [("run", "seed"), ("run", "limit_batches")]
# Settings that must not change on resume
FIXED = ("task", "optim.opt", "optim.layer_decay")
# Initial weights, which a resumed run does not read
START = ("model.start", "model.pretrained")
# Settings that do not affect the computation
OF_NO_EFFECT = ("resume", "run.timeout")


def load(state: State, path: Path, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """Load weights, average, moments and loss scale of a checkpoint; returns the rest of its content.

    Args:
        config: the current settings, if they may differ from the checkpoint's.

    Raises:
        UsageError: it is missing, damaged or of another model or kind of run, or a setting differs that must not.
    """

    def take(path: Path) -> dict[str, Any]:
        form = forms.of(path)
        if parts := state.sharded and form is forms.PARTS:
            content = form.progress(path)
        else:
            content = _sent(state.world, form.read, path)
        _check_fixed(differences(content.get("config"), config), path)
        if parts:
            sharded.restore(state, path, content)
        else:
            whole = conversion.divided_training(state, content) if state.sharded else content
            checkpoint.load_training(state, whole, path)
        return content

    attempts = state.world.first(lambda: lookup.attempts(path))
    content = lookup.first_readable(attempts, take, say=state.world.main)
    if state.ema is not None and content.get("ema_rounding") is not None:
        state.ema._sr_generator.set_state(content["ema_rounding"])
    if state.scaler.is_enabled() and content.get("scaler"):
        state.scaler.load_state_dict(content["scaler"])
    return content


def _sent(world: World, read: Callable[[Path], dict[str, Any]], path: Path) -> dict[str, Any]:
    """The content that process 0 reads, in every process: the others may not see the file."""
    content: dict[str, Any] = {}
    world.first(lambda: content.update(read(path)))
    return world.send(content)


def restore(state: State, path: Path, config: dict[str, Any] | None = None) -> list[str]:
    """Resume ``state`` from a checkpoint, in the middle of an epoch if it was written there.

    Settings may have changed, see docs/training.md. The learning rate continues at the same fraction of the schedule,
    even if an epoch has another number of updates now.

    Returns:
        The changed settings, formatted for display.

    Raises:
        UsageError: see `load`; also if no epoch is left, the batches of the current epoch would change, or a setting
            differs that must not. With ``resume=auto`` a run that was killed after its last epoch finishes instead.
    """
    config = config or {}
    built = [dict(group) for group in state.optimizer.param_groups]
    content = load(state, path, config)
    check_resumed(content.get("data"), state.data, path, bool(content.get("batch")))
    changes = differences(content.get("config"), config)
    given = state.accumulate
    for name in checkpoint.COUNTERS:
        setattr(state, name, content.get(name, getattr(state, name)))
    state.accumulate = max(given, state.accumulate)  # memory that ran out once would run out again
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
    """Settings that differ, each with both values (None if absent); empty if either side has no settings."""
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
    """Raise if a setting differs that must not."""
    for key in FIXED:
        if key in changes:
            raise _refused(path, key, *changes[key])
    for key in START:
        if key in changes:
            raise UsageError(f"resume={path}: continues with the weights of the run; expected no {key}")


def _set_optimizer(
    state: State, built: list[dict[str, Any]], changes: dict[str, tuple[Any, Any]], path: Path
) -> None:
    """Apply changed settings to the optimizer, which holds those of the checkpoint.

    Args:
        built: its parameter groups as the configuration made them.
    """
    changed = {
        name.removeprefix("optim."): pair for name, pair in changes.items() if name.startswith("optim.")
    }
    for group, new in zip(state.optimizer.param_groups, built, strict=True):
        for name, (old, value) in changed.items():
            if name not in group or name not in new:
                raise _refused(path, f"optim.{name}", old, value)
            if name == "lr":  # keep reductions by a plateau schedule
                group["lr"] = group["lr"] * value / old if old else new["lr"]
                group["initial_lr"] = new.get("initial_lr", new["lr"])
            else:
                group[name] = new[name]


def _refused(path: Path, key: str, old: Any, value: Any) -> UsageError:
    return UsageError(f"resume={path}: {key} was {old}, not {value}; it must not change on resume")


def _check_order(old: dict[str, Any], new: dict[str, Any], path: Path, state: State) -> None:
    """Raise if the batches of an epoch that has begun would change."""
    for group, key in [*ORDER, *(("data", name) for name in state.order)] if old and new else ():
        before, now = old[group].get(key), new[group].get(key)
        off = (None, False, 1)  # an older run has no such setting, which means that it is off
        if before != now and not (key not in old[group] and now in off):
            raise UsageError(
                f"resume={path}: it stands in the middle of epoch {state.epoch + 1}, which needs "
                f"{group}.{key}={before}, not {now}"
            )


def roll_back(state: State, out: Path) -> int:
    """Load weights, average, moments and loss scale of the last checkpoint; keeps learning rates, returns its step."""
    rates = [group["lr"] for group in state.optimizer.param_groups]
    step = load(state, out / forms.used_by(state).last)["step"]
    for group, rate in zip(state.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    return step


def load_best(state: State, out: Path) -> None:
    """Load the evaluated weights from best.pt of this run."""
    path = out / checkpoint.BEST
    weights = _sent(state.world, _evaluated, path)
    if state.sharded:
        weights = conversion.divided(weights, state.averaged.state_dict())
    checkpoint.load_weights(state.averaged, weights, path)


def _evaluated(path: Path) -> dict[str, Any]:
    content = checkpoint.read(path)
    return content.get("model_ema", content["model"])


def carry_best(resumed: Path, out: Path) -> None:
    """Copy best.pt of the run that is resumed, whose best epoch may never be beaten."""
    best = resumed.with_name(checkpoint.BEST)
    if best.is_file() and best.resolve() != (out / checkpoint.BEST).resolve():
        shutil.copyfile(best, out / checkpoint.BEST)
