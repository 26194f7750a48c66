"""From a plain configuration to the objects that the loop uses: each group feeds one timm function."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ..data import SOURCES, Splits, UsageError
from .create import model_cfg
from .tasks import Task, find_task

AMP = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class State:
    """Everything that a training step reads or changes."""

    task: Task
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
    best: float = -math.inf  # best validation score so far, in the task's unit
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
    run = cfg["run"]
    find_task(cfg["task"])
    if run["amp"] not in AMP:
        raise UsageError(f"run.amp={run['amp']}: expected one of {', '.join(AMP)}")
    if run["epochs"] < 1:
        raise UsageError(f"run.epochs={run['epochs']}: expected at least 1")


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


def build_state(cfg: dict[str, Any], data: Splits, steps_per_epoch: int) -> State:
    """Model, average, optimizer, schedule, loss and precision on the chosen device.

    Raises:
        UsageError: a value that one of timm's functions refuses, naming the group.
    """
    run, task = cfg["run"], find_task(cfg["task"])
    device, amp = pick_device(run["device"]), AMP[run["amp"]]
    model = task.build_model(cfg, data).to(device)
    try:
        optimizer = create_optimizer_v2(model, **cfg["optim"])
    except (TypeError, ValueError, AssertionError) as error:
        raise UsageError(f"optim {cfg['optim']}: {error}") from error
    try:
        scheduler, epochs = create_scheduler_v2(optimizer, **cfg["sched"], updates_per_epoch=steps_per_epoch)
    except (TypeError, ValueError, AssertionError) as error:
        raise UsageError(f"sched {cfg['sched']}: {error}") from error
    mixup, criterion = task.build_loss(cfg, data)
    return State(
        task=task,
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
