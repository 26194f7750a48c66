"""The training loop: step, epoch, evaluation, and the loop over epochs."""

import contextlib
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vimzoo.data import Splits
from vimzoo.data.batches.several import Given, answer, given
from vimzoo.errors import UsageError
from vimzoo.layers.moe import balance_loss
from vimzoo.metrics import broken

from . import recover, sizes
from .checkpoints.saver import Saver
from .classes import warn
from .processes.parallel import World, average_statistics, sync_gradients, together, whole
from .record import Scores
from .reports import report
from .reports.track import Tracker
from .state import State, no_sums
from .teacher import taught_loss

NO_TRACKER = Tracker()


def seed_everything(seed: int, step: int = 0, rank: int = 0) -> None:
    """Seed Python, NumPy and torch from (seed, step, rank), so that a resumed run draws the same numbers."""
    mixed = int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    # Without a GPU, torch.manual_seed spends 0.1 ms and more on queueing the seed for one
    every_device = torch.accelerator.is_available()
    (torch.manual_seed if every_device else torch.default_generator.manual_seed)(mixed)


def train_step(state: State, images: Given, targets: Tensor) -> float:
    """One update from this process's share of a batch; returns the loss over the whole batch.

    Args:
        images: (B, C, H, W), or several of them.
        targets: (B, ...), as the task defines them.

    Raises:
        FloatingPointError: the loss or the gradient is not finite; the weights are those of the step before.
    """
    state.world.place.move(f"at update {state.step + 1}")
    seed_everything(state.seed, state.step + 1, state.world.rank)
    if state.mixup is not None:
        images, targets = state.mixup(images, targets)
    loss = recover.guarded(state, backpropagate, images, targets)
    average_statistics(state.model, state.world)
    state.scaler.unscale_(state.optimizer)
    norm = gradient_norm(state)
    state.loss, state.norm = torch.stack([state.world.mean(loss), norm]).tolist()
    recover.check_finite(state)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if state.ema is not None:
        state.ema.update(state.model, step=state.step + 1)
    advance(state)
    return state.loss


def backpropagate(state: State, images: Given, targets: Tensor) -> Tensor:
    """Accumulate gradients of the mean loss over micro-batches; returns that loss."""
    total = torch.zeros((), device=state.device)
    parts: list[tuple[Given, Tensor]] = list(
        zip(images.chunk(state.accumulate), targets.chunk(state.accumulate), strict=True)
    )
    for index, (part, wanted) in enumerate(parts, start=1):
        with sync_gradients(state.forward, last=index == len(parts)):
            with state.autocast(), naming_images(part):
                output = answer(state.forward, part)
            loss = taught_loss(state, part, in_float32(output), wanted) + balance_loss(state.model)
            loss = loss * (len(part) / len(images))
            state.scaler.scale(loss).backward()
        total += loss.detach()
    return total


@contextlib.contextmanager
def naming_images(images: Given) -> Iterator[None]:
    """Let a model that refuses the images say which setting their size comes from.

    Raises:
        UsageError: in place of a `ValueError` of a model about its argument ``x``.
    """
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("x: "):
            raise
        shape, said = " x ".join(map(str, images.shape[1:])), str(error)[3:]
        sizes = "height" in said or "side" in said
        advice = "; data.img_size, or data.crop of pairs, sets their size" if sizes else ""
        raise UsageError(f"images of {shape} do not fit the model: {said}{advice}") from error


def in_float32(output: Any) -> Any:
    """A model's output, or its outputs of several resolutions or for labels and teacher, as float32."""
    if isinstance(output, list | tuple):
        return type(output)(part.float() for part in output)
    return output.float()


def gradient_norm(state: State) -> Tensor:
    """The norm of the whole gradient, before clipping (if the run clips)."""
    parameters = [p for p in state.model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if state.clip_grad is not None:
        nn.utils.clip_grads_with_norm_(parameters, state.clip_grad, norm)
    return whole(norm).to(state.device)


def advance(state: State) -> None:
    """Count an update and set the learning rate for the next."""
    state.step += 1
    if state.scheduler is not None:
        state.scheduler.step_update(state.step + state.ahead)


def train_epoch(
    state: State, loader: DataLoader, saver: Saver, tracker: Tracker = NO_TRACKER
) -> dict[str, float]:
    """Train the rest of the current epoch; returns mean loss, last learning rate and images per second.

    Raises:
        Stopped: a signal stopped the run, which is saved.
        FloatingPointError: see `train_step`, unless ``run.on_nonfinite`` skips such updates.
    """
    sampler, sums = loader.batch_sampler, state.sums
    sampler.epoch, sampler.start = state.epoch, state.batch  # type: ignore[union-attr]
    state.model.train()
    for module in state.frozen:
        module.eval()
    clock = time.perf_counter()
    for images, targets in report.progress(loader, state):
        images = given(images).to(state.device, non_blocking=True)
        targets = targets.to(state.device, non_blocking=True)
        try:
            loss = train_step(state, images, targets)
            state.nonfinite = 0
            sums["loss"] += loss * len(images) * state.world.size
            sums["images"] += len(images) * state.world.size
        except FloatingPointError as error:
            saver.wait()  # a rollback reads the last checkpoint
            recover.leave_out(state, error, saver.out)
            advance(state)
        state.batch += 1
        sizes.count(state, images)
        sums["seconds"], clock = sums["seconds"] + time.perf_counter() - clock, time.perf_counter()
        tracker.step(state)
        saver.after_step(state)
        state.world.place.words = f"reading the batch of update {state.step + 1}"
    return {
        "lr": state.lr,
        "train_loss": sums["loss"] / max(1, sums["images"]),
        "images_per_s": sums["images"] / max(1e-9, sums["seconds"]),
    }


@dataclass
class Tally:
    """Counts model outputs, and those with NaN or infinity."""

    broken: Tensor | int = 0
    count: int = 0

    def add(self, output: Tensor) -> None:
        """Count one batch (B, ...)."""
        self.broken = self.broken + broken(output).sum()
        self.count += len(output)

    def sums(self) -> dict[str, Any]:
        """See `Scores.sums`."""
        return vars(self)


def of_views(model: nn.Module, images: Given) -> Tensor:
    """A model's output; for several views of each film, (B, views, C, T, H, W), the logarithm of mean probabilities."""
    if not isinstance(images, Tensor) or images.dim() != 6:
        return answer(model, images)
    views = [model(view).float().softmax(-1) for view in images.unbind(1)]
    return torch.stack(views).mean(0).log()


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: DataLoader,
    scores: Scores,
    device: torch.device | str = "cpu",
    amp: torch.dtype | None = None,
    world: World | None = None,
) -> dict[str, float]:
    """Count a model's outputs over a loader of (images, targets) in ``scores``; returns their summary.

    Args:
        model: is in evaluation mode during the call.
        scores: counts each batch; holds the sums over all processes afterwards.
        amp: autocast to this type; None is no autocast.
        world: the processes, each evaluating its own loader.

    Raises:
        ValueError: the loaders of all processes are empty.
    """
    device, was_training = torch.device(device), model.training
    if (world or World()).largest(len(loader)) == [0]:
        raise ValueError("loader: no batches to evaluate; expected at least one image")
    model.eval()
    tally = Tally()
    world = world or World()
    with together(model, world):
        for images, targets in loader:
            with (
                torch.autocast(device.type, dtype=amp, enabled=amp is not None),
                naming_images(given(images)),
            ):
                output = of_views(model, given(images).to(device, non_blocking=True))
            tally.add(output)
            scores.add(output, targets.to(device, non_blocking=True))
    world.add_up(scores)
    world.add_up(tally)
    if tally.broken:
        warn(
            f"{int(tally.broken)} of {tally.count} outputs of the model hold NaN or infinity; they count as wrong in "
            "accuracies, and means with them are NaN"
        )
    model.train(was_training)
    return scores.summary()


def fit(
    state: State,
    data: Splits,
    train: DataLoader,
    val: DataLoader,
    saver: Saver,
    tracker: Tracker = NO_TRACKER,
) -> None:
    """Train from the epoch of ``state`` to ``state.epochs``; validate, save and report after each epoch.

    ``best.pt`` is the last epoch with the highest validation score: on a small validation set many epochs tie, and the
    later one has a lower learning rate and a longer average.

    Raises:
        Stopped, FloatingPointError: see ``train_epoch``.
    """
    with saver:
        if state.on_nonfinite == "rollback":  # also after a resume: with the current settings
            saver.save(state)
        while state.epoch < state.epochs and not ended_early(state):
            start = time.perf_counter() - state.sums["seconds"]
            row = {"epoch": state.epoch + 1, **train_epoch(state, train, saver, tracker), "step": state.step}
            seed_everything(state.seed, state.step, state.world.rank)  # for models that draw in evaluation
            scores = state.task.scores(data)
            state.world.place.words = f"evaluating epoch {state.epoch + 1}"
            metrics = evaluate(state.averaged, val, scores, state.device, state.amp, state.world)
            row |= {f"val_{name}": value for name, value in metrics.items()}
            if data.batching.many_sizes:
                row |= sizes.row(state)
            row["seconds"] = time.perf_counter() - start
            improved = count_epoch(state, row)
            saver.save(state, improved)
            tell(state, data, row, improved, saver, tracker)
            saver.stop_if_heard(state)


def ended_early(state: State) -> bool:
    """Whether ``run.early_stop`` epochs have passed without a better validation score; prints a message if so."""
    scores = [row[f"val_{state.task.score}"] for row in state.history]
    if state.early_stop is None or state.best not in scores:
        return False
    waited = scores[::-1].index(state.best)  # of several best epochs the last counts
    if waited >= state.early_stop and state.world.main:
        print(f"no better validation {state.task.label} for {waited} epochs: the run ends here", flush=True)
    return waited >= state.early_stop


def count_epoch(state: State, row: dict[str, float]) -> bool:
    """Count the epoch and store its row; returns whether it is the best so far."""
    score = row[f"val_{state.task.score}"]
    improved = score >= state.best or not math.isfinite(state.best)  # some epoch has to be the best
    state.epoch, state.batch, state.sums = state.epoch + 1, 0, no_sums()
    state.best = max(state.best, score)
    state.history.append(row)
    if state.scheduler is not None:
        state.scheduler.step(state.epoch, metric=score)
    return improved


def tell(
    state: State, data: Splits, row: dict[str, float], improved: bool, saver: Saver, tracker: Tracker
) -> None:
    """Report an epoch, after saving it: tables, a line, the tracker, unreadable images.

    Raises:
        UsageError: too many images cannot be read.
    """
    if state.world.main:
        report.write_csv(state.history, saver.out / "metrics.csv")
        if data.batching.many_sizes:
            sizes.write(state, data.batching, saver.out / "sizes.csv")
        report.epoch_line(state, row, improved)
    tracker.epoch(row, state.step)
    try:
        report.unreadable(data, state.world, saver.out)
    except UsageError as error:
        raise UsageError(f"{error}; the run is saved in {saver.last(state)}") from error
