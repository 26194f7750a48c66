"""Recovery within a step: out of memory, and losses or gradients that are not finite."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from vimzoo.data.batches.several import Given
from vimzoo.errors import UsageError, is_out_of_memory

from .checkpoints import resume
from .state import State

ON_NONFINITE = ("stop", "skip", "rollback")
PATIENCE = 10  # consecutive skipped updates after which the run stops


class OutOfMemory(RuntimeError):
    """Out of memory in a distributed run, where one process cannot shrink its micro-batches alone."""


def guarded(
    state: State, backpropagate: Callable[[State, Given, Tensor], Tensor], images: Given, targets: Tensor
) -> Tensor:
    """Call ``backpropagate(state, images, targets)``; when out of memory, retry with twice as many micro-batches.

    If bad updates may be skipped, buffers (running statistics) are saved first, because the forward pass changes them.

    Raises:
        UsageError: a single image does not fit.
        OutOfMemory: in a run of several processes, where the others wait for this one's gradients and cannot retry.
    """
    if state.on_nonfinite != "stop":
        state.buffers = [buffer.clone() for buffer in state.model.buffers()]
    while True:
        try:
            return backpropagate(state, images, targets)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            size = math.ceil(len(images) / state.accumulate)
            advice = f"out of memory at step {state.step + 1} with micro-batches of {size}"
            if size == 1:
                raise UsageError(
                    f"{advice}: the model and one image do not fit; try a smaller model or image"
                ) from error
            if state.world.size > 1:
                raise OutOfMemory(f"{advice}; try run.accumulate={2 * state.accumulate}") from error
        # Outside the handler: its traceback would keep the tensors of the failed pass alive
        state.accumulate *= 2
        state.optimizer.zero_grad(set_to_none=True)
        if state.device.type == "cuda":
            torch.cuda.empty_cache()
        smaller = math.ceil(len(images) / state.accumulate)
        print(
            f"{advice}: from here {state.accumulate} of {smaller}, the batch stays {len(images)}", flush=True
        )


def check_finite(state: State) -> None:
    """Raise before an update that would corrupt the weights; the loss scaler handles overflows of its own scale.

    Raises:
        FloatingPointError: the loss or gradient is not finite; names the step. The gradients are cleared.
    """
    scaled = state.scaler.is_enabled() and not math.isfinite(state.norm) and state.scaler.get_scale() > 1
    spoilt = not math.isfinite(state.norm) and not scaled
    if math.isfinite(state.loss) and not spoilt:
        return
    what = f"gradient's norm is {state.norm}" if math.isfinite(state.loss) else f"loss is {state.loss}"
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    for buffer, kept in zip(state.model.buffers(), state.buffers, strict=bool(state.buffers)):
        buffer.copy_(kept)
    raise FloatingPointError(
        f"the training {what} at step {state.step + 1} (epoch "
        f"{state.epoch + 1}); the weights are those of the step before. Try a smaller optim.lr or "
        "run.clip_grad, run.amp=bf16 or none, or run.on_nonfinite=skip or rollback"
    )


def leave_out(state: State, error: FloatingPointError, out: Path) -> None:
    """Handle a bad update as ``run.on_nonfinite`` says.

    ``skip`` drops it; ``rollback`` also restores weights, averages and moments of the last checkpoint, while data and
    schedule continue. After `PATIENCE` consecutive ones the run stops.

    Raises:
        FloatingPointError: ``error`` itself, if the run is to stop.
    """
    state.nonfinite += 1
    if state.on_nonfinite == "stop" or state.nonfinite > PATIENCE:
        raise error
    done = "left out"
    if state.on_nonfinite == "rollback":
        step = resume.roll_back(state, out)
        done = f"left out, weights of step {step}"
    if state.world.main:
        what = str(error).split(";")[0]
        print(f"{what}: {done} ({state.nonfinite} in a row)", file=sys.stderr, flush=True)
