"""Loaders whose order and augmentation depend on seed and epoch alone."""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from vimzoo.errors import UsageError

from ..splits import Images, Splits
from .buckets import BucketBatches, ShapeBatches
from .stages import StageBatches

LAST_SECONDS = 10  # of a loader process that is asked to end


class EpochBatches(Sampler[list[tuple[int, ...]]]):
    """Shuffled full batches of keys (epoch, index), of which each process takes its part.

    Set ``epoch``, and ``start`` where batches of it are done already, before iterating.

    Args:
        size: images in the split. batch_size: of all processes together.
        seed: of the order. limit: batches per epoch.
        repeats: times that an image comes in a batch, with keys (epoch, index, repeat); an epoch is as long as
            without, so it sees a share of the images (repeated augmentation, Hoffer et al., CVPR 2020).
        rank, world: which part of every batch, of how many.
        labels: class numbers of the images: all classes then come equally often, and images of small ones several
            times in an epoch, with keys (epoch, index, round).

    Raises:
        UsageError: the batch cannot be shared evenly.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        limit: int | None = None,
        rank: int = 0,
        world: int = 1,
        repeats: int = 1,
        labels: np.ndarray | None = None,
    ) -> None:
        self.labels = labels
        self.size, self.batch_size, self.seed, self.repeats = size, min(batch_size, size), seed, repeats
        self.rank, self.world, self.epoch, self.start = rank, world, 0, 0
        self.count = min(size // self.batch_size, limit or size)
        if self.batch_size % world:
            raise UsageError(
                f"data.batch_size={batch_size} of {size} images: expected a multiple of devices={world}"
            )
        if repeats < 1:
            raise UsageError(f"data.repeats={repeats}: expected at least 1")

    def __len__(self) -> int:
        """Batches of a whole epoch, whatever ``start``."""
        return self.count

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        rng, part = np.random.default_rng([self.seed, self.epoch]), self.batch_size // self.world
        order = rng.permutation(self.size) if self.labels is None else self._balanced(rng)
        for batch in range(self.start, self.count):
            first = batch * self.batch_size + self.rank * part
            yield [self._key(order, place) for place in range(first, first + part)]

    def _balanced(self, rng: np.random.Generator) -> np.ndarray:
        """Indices and rounds, (size, 2): images of every class in turn, as many of each, class by class anew."""
        assert self.labels is not None
        numbers = np.unique(self.labels)
        each, picks = -(-self.size // len(numbers)), []
        for number in numbers:
            members = np.flatnonzero(self.labels == number)
            rounds = range(-(-each // len(members)))
            shuffled = [np.stack([rng.permutation(members), np.full(len(members), n)], 1) for n in rounds]
            picks.append(np.concatenate(shuffled)[:each])
        return rng.permutation(np.concatenate(picks))[: self.size]

    def _key(self, order: np.ndarray, place: int) -> tuple[int, ...]:
        """Epoch and index, and which repeat of the image it is if there are several."""
        if self.labels is not None:
            return self.epoch, int(order[place, 0]), int(order[place, 1])
        index, repeat = int(order[place // self.repeats]), place % self.repeats
        return (self.epoch, index) if self.repeats == 1 else (self.epoch, index, repeat)


def _workers(workers: int | None) -> int:
    """None is one process per core that this process may use, eight at most."""
    if workers is not None:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)


def stay(_worker: int) -> None:
    """In a loader process: outlive signals to the whole job long enough for the run to hear them and to save.

    It ends when `closing` asks, when the run's process is gone, or some seconds after SIGTERM; then quietly, because
    torch raises an error in the run's process where a loader process dies of a signal.
    """
    if hasattr(signal, "alarm"):
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(LAST_SECONDS))


@contextlib.contextmanager
def closing(*loaders: DataLoader) -> Iterator[None]:
    """End the processes of these loaders at the end of the block, however it ends.

    Left to the interpreter's exit, they would get SIGTERM, which they outlive for ``LAST_SECONDS``.
    """
    try:
        yield
    finally:
        for loader in loaders:
            iterator = loader._iterator  # torch keeps the processes that stay for the next epoch here
            loader._iterator = None
            if iterator is not None and loader.num_workers:
                iterator._shutdown_workers()  # type: ignore[attr-defined]
                for process in iterator._workers:  # type: ignore[attr-defined]
                    process.kill()  # one that hangs in the reading of a file


def train_loader(
    data: Splits,
    batch_size: int,
    seed: int,
    workers: int | None = 0,
    limit: int | None = None,
    rank: int = 0,
    world: int = 1,
    repeats: int = 1,
    tokens: int | None = None,
    balanced: bool = False,
) -> DataLoader:
    """Batches of (images (B, C, H, W), class numbers (B,)); the last incomplete batch is left out.

    Where images come in many sizes (``data.shapes``) or in stages (``data.stages``), those of a batch have one size,
    and their number differs.

    Args:
        batch_size: images per step, of all processes together, at most the whole split; of the first stage.
        seed: of the order; ``loader.batch_sampler.epoch`` chooses the epoch.
        workers: processes that load; None is one per core, eight at most.
        limit: batches per epoch, for a quick look.
        rank, world: which process this is, of how many.
        repeats: see ``EpochBatches``.
        balanced: draw all classes equally often, see ``EpochBatches``.
        tokens: in a batch of images of many sizes; None is those of ``batch_size`` images of ``data.input_size``.

    Raises:
        UsageError: batch_size or repeats below one, or batch_size not a multiple of the processes; see also
            ``BucketBatches`` and ``StageBatches``.
    """
    if batch_size < 1:
        raise UsageError(f"data.batch_size={batch_size}: expected at least 1")
    if balanced and (data.labels is None or data.shapes or data.stages or repeats != 1):
        raise UsageError(
            "data.balanced=true: expected classes, and neither data.sides, data.stages nor data.repeats"
        )
    count = _workers(workers)
    batches: EpochBatches | BucketBatches | StageBatches
    if data.stages is not None:
        if batch_size != (first := data.stages.parts[0].batch_size):
            raise UsageError(
                f"data.batch_size={batch_size}: expected that of the first of data.stages, {first}"
            )
        batches = StageBatches(data.stages, seed, limit, rank, world)
    elif data.shapes is None or data.kinds is None:
        if tokens is not None:
            raise UsageError(f"data.tokens={tokens}: expected null without data.sides")
        labels = data.labels if balanced else None
        batches = EpochBatches(len(data.train), batch_size, seed, limit, rank, world, repeats, labels)
    else:
        if repeats != 1:
            raise UsageError(f"data.repeats={repeats}: expected 1 with data.sides")
        budget = tokens or batch_size * data.shapes.tokens(data.input_size[1:])
        batches = BucketBatches(data.shapes, data.kinds, budget, seed, limit, rank, world)
    return DataLoader(
        cast(Dataset, data.train),
        batch_sampler=batches,
        num_workers=count,
        persistent_workers=count > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=stay,
    )


def sample(images: Images, count: int) -> Images:
    """``count`` of the images, or all of them: one, always the same, of each of ``count`` equal stretches.

    Images of a folder stand class by class, so all classes have their share.
    """
    if count >= len(images):
        return images
    edges = np.arange(count + 1) * len(images) // count
    draws = np.random.RandomState(0).random_sample(count)
    places = edges[:-1] + np.floor(draws * np.diff(edges)).astype(np.int64)
    part = getattr(images, "part", None)
    return part(places) if part else cast(Images, Subset(cast(Dataset, images), places.tolist()))


def eval_loader(
    dataset: Images,
    batch_size: int,
    workers: int | None = 0,
    limit: int | None = None,
    rank: int = 0,
    world: int = 1,
) -> DataLoader:
    """All images in order, or a `sample` of them under ``limit``, the last incomplete batch included; a process gets
    a contiguous part of them, which is empty for some where there are fewer images than processes.

    Images whose sizes differ, as their ``shapes`` tell, are in batches of one size. Loader processes stay for the next
    pass: where they are not forked, starting them takes seconds.

    Args: as in ``train_loader``.
    """
    if limit is not None:
        dataset = sample(dataset, limit * batch_size)
    images, count = cast(Dataset, dataset), len(dataset)
    part = range(count * rank // world, count * (rank + 1) // world)
    if len(part) < len(dataset):
        images = Subset(images, part)
    shapes = getattr(dataset, "shapes", None)
    batches: dict[str, Any] = {"batch_size": batch_size}
    if shapes is not None:
        batches = {"batch_sampler": ShapeBatches(shapes[part.start : part.stop], batch_size)}
    processes = _workers(workers)
    return DataLoader(
        images,
        **batches,
        num_workers=processes,
        persistent_workers=processes > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=stay,
        generator=torch.Generator(),  # else the first pass alone would draw from torch's, which models may do too
    )
