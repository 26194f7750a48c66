"""Settings checked before any work begins."""

from __future__ import annotations

from typing import Any

import torch
import yaml

from vimzoo.errors import UsageError

from ..processes.parallel import KINDS
from ..recover import ON_NONFINITE
from ..tasks import find_task
from .composing import config_dir
from .words import setting

AMP = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# Setting -> the least whole number that it may be
LEAST = {
    "devices": 1,
    "run.epochs": 1,
    "run.accumulate": 1,
    "run.early_stop": 1,
    "run.seed": 0,
    "run.limit_batches": 1,
    "run.save_every.steps": 1,
    "data.batch_size": 1,
    "data.workers": 0,
}
ABOVE_ZERO = ("run.clip_grad", "run.save_every.minutes", "run.timeout")
SWITCHES = ("run.compile", "run.grad_checkpointing", "run.sync_bn", "deterministic")
MAY_BE_NULL = {"run.limit_batches", "run.early_stop", "run.save_every.steps", "data.workers", *ABOVE_ZERO[:2]}
# Settings without which timm would choose for itself; by kind of schedule also those below
NAMED = {
    "optim": ("opt", "lr", "weight_decay"),
    "sched": ("sched", "num_epochs", "warmup_epochs", "step_on_epochs"),
    "run.ema": ("decay",),
}
NO_NUMBERS = {"opt", "sched", "step_on_epochs", "decay_milestones"}  # of those named here
SHAPES = {
    "cosine": ("min_lr",),
    "multistep": ("decay_milestones", "decay_rate"),
    "step": ("decay_epochs", "decay_rate"),
    "plateau": ("patience_epochs", "decay_rate"),
}


def check_run(cfg: dict[str, Any]) -> None:
    """Check values that would otherwise fail late or be misread.

    Raises:
        UsageError: a value is wrong; names key, value and expectation.
    """
    _check_whole(cfg)
    run = cfg["run"]
    find_task(cfg["task"])
    for key, allowed in (("amp", AMP), ("parallel", KINDS), ("on_nonfinite", ON_NONFINITE)):
        if run[key] not in allowed:
            raise UsageError(f"run.{key}={run[key]}: expected one of {', '.join(allowed)}")
    for key in ("ema", "save_every"):
        if run[key] and not isinstance(run[key], dict):
            raise UsageError(
                f"run.{key}={run[key]}: expected null, or one of its keys, such as run.{key}.KEY="
            )
    for name in [*LEAST, *ABOVE_ZERO, *SWITCHES]:
        check_value(name, setting(cfg, name))


def _check_whole(cfg: dict[str, Any]) -> None:
    """Check that no setting is missing, as after ``~optim.lr``."""
    default = yaml.safe_load((config_dir() / "run" / "default.yaml").read_text())
    run = (f"run.{key}" for key in default)
    for name in ("task", "loss", "resume", *run, "aug.transform", "data.workers"):
        *path, last = name.split(".")
        if last not in ((setting(cfg, ".".join(path)) or {}) if path else cfg):
            raise UsageError(f"{name} is missing; expected a value, or null if the setting is optional")
    for group, names in NAMED.items():
        options = setting(cfg, group)
        if not options and group == "run.ema":
            continue
        names += SHAPES.get(options.get("sched"), ()) if group == "sched" and options else ()
        for key in names:
            value = (options or {}).get(key)
            if key not in NO_NUMBERS and isinstance(value, str | bool):
                raise UsageError(f"{group}.{key}={value}: expected a number")
        if unset := [f"{group}.{key}" for key in names if (options or {}).get(key) is None]:
            raise UsageError(
                f"{', '.join(unset)}: not set; expected values, because a library's defaults would replace them"
            )


def check_value(name: str, value: Any) -> None:
    """Refuse a value of one of the settings `LEAST`, `ABOVE_ZERO` and `SWITCHES`.

    Raises:
        UsageError: naming it, and what was expected.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None and name in MAY_BE_NULL:
        return
    if name in SWITCHES and not isinstance(value, bool):
        raise UsageError(f"{name}={value}: expected true or false")
    if name in ABOVE_ZERO and not (number and value > 0):
        null = "null or " if name in MAY_BE_NULL else ""
        raise UsageError(f"{name}={value}: expected {null}a number above 0")
    if name in LEAST and not (number and isinstance(value, int) and value >= LEAST[name]):
        null = "null or " if name in MAY_BE_NULL else ""
        raise UsageError(f"{name}={value}: expected {null}a whole number, at least {LEAST[name]}")
