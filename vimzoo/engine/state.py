"""The state of a run: everything that a training step reads or changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from .processes.parallel import World
from .record import Mixer, Task

if TYPE_CHECKING:
    from .teacher import Teacher


def no_sums() -> dict[str, float]:
    """Zero sums for a new epoch: loss x images, images, seconds."""
    return {"loss": 0.0, "images": 0, "seconds": 0.0}


@dataclass
class State:
    """A run between two updates. A checkpoint holds what changes; the rest is built from the configuration.

    Random generators are not part of it: every update seeds them from seed, step and rank.
    """

    task: Task
    model: nn.Module
    forward: Callable[..., Any]  # the model wrapped for DDP and compiled
    ema: ModelEmaV3 | None
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler | None
    scaler: torch.amp.GradScaler
    criterion: nn.Module
    mixup: Mixer | None
    device: torch.device
    amp: torch.dtype | None
    clip_grad: float | None
    epochs: int
    updates_per_epoch: int = 0
    seed: int = 0
    on_nonfinite: str = "stop"
    early_stop: int | None = None  # epochs without improvement after which the run ends
    teacher: Teacher | None = None
    world: World = field(default_factory=World)
    accumulate: int = 1  # micro-batches per update and process
    frozen: list[nn.Module] = field(default_factory=list)  # modules that stay in evaluation mode
    epoch: int = 0  # epochs finished
    batch: int = 0  # batches finished in the current epoch
    step: int = 0  # updates finished
    ahead: int = 0  # updates by which the schedule leads `step`, after a resume with another batch size
    nonfinite: int = 0  # consecutive skipped updates
    sums: dict[str, float] = field(default_factory=no_sums)  # over the current epoch
    sizes: dict[str, int] = field(default_factory=dict)  # batches by "images x height x width"
    buffers: list[Tensor] = field(default_factory=list)  # their values before the step, if it may be skipped
    loss: float = math.nan  # of the last step
    norm: float = math.nan  # of its gradient, before clipping
    best: float = -math.inf  # best validation score so far, in the task's unit
    history: list[dict[str, float]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)  # record of the data, see Splits.record
    order: tuple[str, ...] = ()  # settings of data that decide which images a batch holds, see Batching.order

    @property
    def averaged(self) -> nn.Module:
        """The model that is evaluated: the moving average if there is one."""
        return self.model if self.ema is None else self.ema.module

    @property
    def sharded(self) -> bool:
        """Whether the weights are sharded over the processes (FSDP)."""
        return isinstance(self.model, FSDPModule)

    @property
    def lr(self) -> float:
        """The learning rate; with layer decay that of the last layers."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    def autocast(self) -> torch.autocast:
        """The autocast context for ``run.amp``; disabled without it."""
        return torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None)
