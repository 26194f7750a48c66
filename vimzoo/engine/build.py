"""From a plain configuration to the objects that the loop uses: each group feeds one timm function."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ..data import SOURCES, Splits, UsageError

AMP = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class State:
    """Everything that a training step reads or changes."""

    model: nn.Module
    forward: Callable[[Tensor], Tensor]  # the model, compiled if asked for
    ema: ModelEmaV3 | None
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler | None
    scaler: torch.amp.GradScaler
    criterion: nn.Module
    mixup: Mixup | None
    device: torch.device
    amp: torch.dtype | None
    clip_grad: float | None
    epochs: int
    epoch: int = 0  # epochs finished
    step: int = 0  # updates finished
    loss: float = float("nan")  # of the last step
    best: float = -1.0  # best validation accuracy so far, percent
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def averaged(self) -> nn.Module:
        """The weights that are evaluated: the moving average if there is one."""
        return self.model if self.ema is None else self.ema.module

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None)


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA if there is one; otherwise what torch calls the device.

    Raises:
        UsageError: an unknown device, or CUDA where there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"run.device={name}: {reason}; expected auto, cpu, cuda or cuda:N") from error
    return device


def check_run(cfg: dict[str, Any]) -> None:
    """Refuse values that would fail only later.

    Raises:
        UsageError: naming the key, what came and what was expected.
    """
    run, mixup = cfg["run"], cfg["aug"]["mixup"]
    if run["amp"] not in AMP:
        raise UsageError(f"run.amp={run['amp']}: expected one of {', '.join(AMP)}")
    if run["epochs"] < 1:
        raise UsageError(f"run.epochs={run['epochs']}: expected at least 1")
    if mixup["mixup_alpha"] + mixup["cutmix_alpha"] > 0 and cfg["data"]["batch_size"] % 2:
        raise UsageError(f"data.batch_size={cfg['data']['batch_size']}: mixup and cutmix need an even number")


def model_cfg(name: str) -> dict[str, Any]:
    """timm's pretrained_cfg of a registered model; empty for ``hf-hub:`` and ``local-dir:`` names.

    Raises:
        UsageError: no such model, with the nearest names.
    """
    if ":" in name:
        return {}
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), 5)
        hint = f"; near it: {', '.join(near)}" if near else "; timm.list_models() names all"
        raise UsageError(f"model.model_name={name}: no such model{hint}")
    cfg = timm.get_pretrained_cfg(name)
    return cfg.to_dict() if cfg else {}


def build_data(cfg: dict[str, Any]) -> Splits:
    """The data group (minus what the loader takes) and aug.transform feed one function of vimzoo.data.

    Raises:
        UsageError: unknown source or argument, or data that are missing or unusable.
    """
    options = {
        key: value for key, value in cfg["data"].items() if key not in ("source", "batch_size", "workers")
    }
    source = cfg["data"]["source"]
    if source not in SOURCES:
        raise UsageError(f"data.source={source}: expected one of {', '.join(SOURCES)}")
    pretrained_cfg = model_cfg(cfg["model"]["model_name"])
    try:
        return SOURCES[source](
            **options, aug=cfg["aug"]["transform"], seed=cfg["run"]["seed"], pretrained_cfg=pretrained_cfg
        )
    except TypeError as error:
        raise UsageError(f"data={source}: {error}") from error


def build_model(cfg: dict[str, Any], data: Splits) -> nn.Module:
    """``timm.create_model(**model)`` with the classes and channels of the data, and its size if the model is
    made for one size.

    Raises:
        UsageError: the class count does not fit the data, or the model refuses an argument.
    """
    options = dict(cfg["model"])
    asked = options.pop("num_classes", None)
    if asked is not None and asked != len(data.classes):
        raise UsageError(
            f"model.num_classes={asked}, but the data ({data.name}) have {len(data.classes)} classes "
            f"({', '.join(data.classes[:5])}{', ...' if len(data.classes) > 5 else ''}); "
            "leave model.num_classes=null to take theirs"
        )
    options.setdefault("in_chans", data.input_size[0])
    if model_cfg(options["model_name"]).get("fixed_input_size"):
        options.setdefault("img_size", data.input_size[1:])
    try:
        return timm.create_model(**options, num_classes=len(data.classes))
    except (TypeError, ValueError, AssertionError) as error:
        raise UsageError(f"model {options}: {error}") from error


def build_loss(mixup: dict[str, Any], classes: int) -> tuple[Mixup | None, nn.Module]:
    """timm's Mixup when it mixes anything, and the loss that fits its targets."""
    if mixup["mixup_alpha"] > 0 or mixup["cutmix_alpha"] > 0:
        return Mixup(**mixup, num_classes=classes), SoftTargetCrossEntropy()
    return None, LabelSmoothingCrossEntropy(smoothing=mixup["label_smoothing"])


def build_state(cfg: dict[str, Any], data: Splits, steps_per_epoch: int) -> State:
    """Model, average, optimizer, schedule, loss and precision on the chosen device.

    Raises:
        UsageError: a value that one of timm's functions refuses, naming the group.
    """
    run = cfg["run"]
    device, amp = pick_device(run["device"]), AMP[run["amp"]]
    model = build_model(cfg, data).to(device)
    try:
        optimizer = create_optimizer_v2(model, **cfg["optim"])
    except (TypeError, ValueError, AssertionError) as error:
        raise UsageError(f"optim {cfg['optim']}: {error}") from error
    try:
        scheduler, epochs = create_scheduler_v2(optimizer, **cfg["sched"], updates_per_epoch=steps_per_epoch)
    except (TypeError, ValueError, AssertionError) as error:
        raise UsageError(f"sched {cfg['sched']}: {error}") from error
    mixup, criterion = build_loss(cfg["aug"]["mixup"], len(data.classes))
    return State(
        model=model,
        forward=torch.compile(model) if run["compile"] else model,
        ema=ModelEmaV3(model, **run["ema"]) if run["ema"] else None,
        optimizer=optimizer,
        scheduler=scheduler,
        scaler=torch.amp.GradScaler(device.type, enabled=amp is torch.float16),
        criterion=criterion,
        mixup=mixup,
        device=device,
        amp=amp,
        clip_grad=run["clip_grad"],
        epochs=epochs,
    )
