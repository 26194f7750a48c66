"""Loaders whose order and augmentation depend only on seed and epoch."""

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

LAST_SECONDS = 10  # that a loader process outlives SIGTERM


def _workers(workers: int | None) -> int:
    """Number of loader processes; None is one per available core, eight at most."""
    if workers is not None:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)


def stay(_worker: int) -> None:
    """Worker init: ignore the other signals and delay SIGTERM, so that the main process can save first.

    A worker ends when `closing` ends it, when its parent is gone, or `LAST_SECONDS` after SIGTERM. It then exits
    normally, because torch raises an error in the main process if a signal kills a worker.
    """
    if hasattr(signal, "alarm"):
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(LAST_SECONDS))


@contextlib.contextmanager
def closing(*loaders: DataLoader) -> Iterator[None]:
    """End the worker processes of these loaders at the end of the block, also after an error.

    At interpreter exit they would receive SIGTERM, which they outlive for `LAST_SECONDS`.
    """
    try:
        yield
    finally:
        for loader in loaders:
            iterator = loader._iterator  # torch keeps persistent workers here
            loader._iterator = None
            if iterator is not None and loader.num_workers:
                iterator._shutdown_workers()  # type: ignore[attr-defined]
                for process in iterator._workers:  # type: ignore[attr-defined]
                    process.kill()  # it may hang reading a file


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
    """Batches of (images (B, C, H, W), targets (B, ...)); an incomplete last batch is dropped.

    Images of a batch have one size. Both that size and their number may differ between batches, see ``data.batching``.

    Args:
        batch_size: images per update over all processes, at most the whole split; with stages, that of the first.
        seed: for the order; ``loader.batch_sampler.epoch`` selects the epoch.
        workers: loader processes; None is one per core, eight at most.
        limit: batches per epoch, for a quick look.
        rank, world: this process is number ``rank`` of ``world``.
        repeats: see `EpochBatches`.
        tokens: token budget of a batch of images of many sizes; None is that of ``batch_size`` images of
            ``data.input_size``.
        balanced: draw all classes equally often, see `EpochBatches`.

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
    """A fixed sample of ``count`` images (all, if there are fewer): one from each of ``count`` equal stretches.

    Images of a folder are sorted by class, so every class is represented in proportion.
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
    """All images in order, or a `sample` of ``limit`` batches; includes an incomplete last batch.

    Each process gets a contiguous part, which may be empty if there are fewer images than processes. Images of
    different sizes (see their ``shapes``) are batched by size. Workers are persistent: where they are not forked,
    starting them takes seconds.

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
        generator=torch.Generator(),  # a pass must not draw from the global generator, which models use
    )
