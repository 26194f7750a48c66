"""Everything that a training step reads or changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from .processes.parallel import World
from .task import Mixer, Task


def no_sums() -> dict[str, float]:
    """Of an epoch that has not begun: loss x images, images, seconds."""
    return {"loss": 0.0, "images": 0, "seconds": 0.0}


@dataclass
class State:
    """A run between two updates. A checkpoint holds what changes; the rest is built from the configuration.

    Random generators are not part of it: every update seeds them from (seed, step, process).
    """

    task: Task
    model: nn.Module
    forward: Callable[[Tensor], Tensor]  # the model as a step calls it: distributed, compiled
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
    early_stop: int | None = None  # epochs without a better score that end the run
    world: World = field(default_factory=World)
    accumulate: int = 1  # micro-batches that a process makes of its share of a batch
    frozen: list[nn.Module] = field(default_factory=list)  # modules that stay in evaluation mode
    epoch: int = 0  # epochs finished
    batch: int = 0  # batches of the epoch under way that are done
    step: int = 0  # updates finished
    ahead: int = (
        0  # updates that the schedule is ahead of them, in a run that went on with batches of another size
    )
    nonfinite: int = 0  # updates left out in a row
    sums: dict[str, float] = field(default_factory=no_sums)  # over the epoch under way
    sizes: dict[str, int] = field(default_factory=dict)  # batches by "images x height x width"
    buffers: list[Tensor] = field(default_factory=list)  # before the step, where it may be left out
    loss: float = math.nan  # of the last step
    norm: float = math.nan  # of its gradient, before clipping
    best: float = -math.inf  # best validation score so far, in the task's unit
    history: list[dict[str, float]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)  # what is remembered of the data, see Splits.record
    order: tuple[str, ...] = ()  # settings of data that decide which images a batch holds, see Batching.order

    @property
    def averaged(self) -> nn.Module:
        """The weights that are evaluated: the moving average if there is one."""
        return self.model if self.ema is None else self.ema.module

    @property
    def sharded(self) -> bool:
        """Whether each process holds only a part of the weights."""
        return isinstance(self.model, FSDPModule)

    @property
    def lr(self) -> float:
        """The learning rate; with layer decay that of the last layers."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    def autocast(self) -> torch.autocast:
        """The context of mixed precision as ``run.amp`` has it; of no effect without."""
        return torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None)
