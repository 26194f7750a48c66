"""The training loop: a step, an epoch, an evaluation, and the run of epochs around them."""

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..data import Splits
from . import checkpoint, report
from .build import State
from .tasks import Scores


def seed_everything(seed: int, epoch: int = 0) -> None:
    """Seed Python, NumPy and torch from (seed, epoch): an epoch draws the same however it is reached."""
    mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


def train_step(state: State, images: Tensor, targets: Tensor) -> float:
    """One update from images (B, C, H, W) and what the task wants for them (B, ...); returns the loss.

    Raises:
        FloatingPointError: the loss is not finite; the weights are still those of the step before.
    """
    if state.mixup is not None:
        images, targets = state.mixup(images, targets)
    with state.autocast():
        output = state.forward(images)
    loss = state.criterion(output.float(), targets)
    value = state.loss = loss.item()
    if not np.isfinite(value):
        raise FloatingPointError(
            f"the training loss is {value} at step {state.step + 1} (epoch {state.epoch + 1}); the weights "
            "are those of the step before. Try a smaller optim.lr or run.clip_grad, or run.amp=bf16 or none"
        )
    state.scaler.scale(loss).backward()
    if state.clip_grad is not None:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), state.clip_grad)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    if state.ema is not None:
        state.ema.update(state.model, step=state.step)
    if state.scheduler is not None:
        state.scheduler.step_update(state.step)
    return value


def train_epoch(state: State, loader: DataLoader, seed: int) -> dict[str, float]:
    """Every batch of one epoch; returns mean loss, last learning rate, images per second."""
    seed_everything(seed, state.epoch + 1)
    loader.batch_sampler.epoch = state.epoch  # type: ignore[union-attr]
    state.model.train()
    total, images_seen, start = 0.0, 0, time.perf_counter()
    for images, targets in report.progress(loader, state):
        images = images.to(state.device, non_blocking=True)
        targets = targets.to(state.device, non_blocking=True)
        total += train_step(state, images, targets) * len(images)
        images_seen += len(images)
    seconds = time.perf_counter() - start
    return {
        "lr": state.optimizer.param_groups[0]["lr"],
        "train_loss": total / images_seen,
        "images_per_s": images_seen / seconds,
    }


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: DataLoader,
    scores: Scores,
    device: torch.device | str = "cpu",
    amp: torch.dtype | None = None,
) -> dict[str, float]:
    """Count a model's outputs over a loader of (images, targets) in ``scores``; returns their summary.

    Args:
        model: put into evaluation mode for the time being.
        scores: what counts one batch at a time.
        amp: autocast to this type; None computes as the weights are.

    Raises:
        ValueError: an empty loader.
    """
    device, was_training = torch.device(device), model.training
    if len(loader) == 0:
        raise ValueError("loader: no batches to evaluate; expected at least one image")
    model.eval()
    for images, targets in loader:
        with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
            output = model(images.to(device, non_blocking=True))
        scores.add(output, targets.to(device, non_blocking=True))
    model.train(was_training)
    return scores.summary()


def fit(
    state: State,
    data: Splits,
    train: DataLoader,
    val: DataLoader,
    out: Path,
    seed: int = 0,
    config: dict[str, Any] | None = None,
) -> None:
    """Train from ``state.epoch`` to ``state.epochs``; after each epoch validate, save, report.

    ``out/best.pt`` is the last of the epochs with the highest validation score: many epochs tie on a small
    validation set, and the later one has the lower learning rate and the longer average.

    Raises:
        FloatingPointError: a non-finite loss, naming the step.
    """
    while state.epoch < state.epochs:
        start = time.perf_counter()
        row = {"epoch": state.epoch + 1, **train_epoch(state, train, seed), "step": state.step}
        metrics = evaluate(state.averaged, val, state.task.scores(data), state.device, state.amp)
        row |= {f"val_{name}": value for name, value in metrics.items()}
        score = metrics[state.task.score]
        state.epoch += 1
        if state.scheduler is not None:
            state.scheduler.step(state.epoch, metric=score)
        row["seconds"] = time.perf_counter() - start
        state.history.append(row)
        improved = score >= state.best
        state.best = max(state.best, score)
        checkpoint.save(state, out / "last.pt", config)
        if improved:
            checkpoint.save(state, out / "best.pt", config)
        report.write_csv(state.history, out / "metrics.csv")
        report.epoch_line(state, row, improved)
