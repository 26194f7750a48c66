"""Loaders whose order and augmentation depend on seed and epoch alone."""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from vimzoo.errors import UsageError

from ..splits import Images, Splits
from .buckets import ShapeBatches
from .drawing import Request

LAST_SECONDS = 10  # of a loader process that is asked to end


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

    Images of a batch have one size. Both that size and their number may differ between batches, see ``data.batching``.

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
        UsageError: ``batch_size`` or ``repeats`` is below one, ``batch_size`` is not a multiple of the processes, or
            an argument does not fit ``data.batching``.
    """
    if batch_size < 1:
        raise UsageError(f"`batch_size`={batch_size}: expected at least 1")
    request = Request(
        len(data.train), batch_size, seed, data.labels, limit, rank, world, repeats, tokens, balanced
    )
    count = _workers(workers)
    return DataLoader(
        cast(Dataset, data.train),
        batch_sampler=data.batching.sampler(request),
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
