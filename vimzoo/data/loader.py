"""Loaders whose order and augmentation depend on seed and epoch alone."""

import os
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from .splits import Images, Splits, UsageError


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Shuffled full batches of keys (epoch, index); set ``epoch`` before iterating."""

    def __init__(self, size: int, batch_size: int, seed: int, limit: int | None = None) -> None:
        self.size, self.batch_size, self.seed, self.epoch = size, min(batch_size, size), seed, 0
        self.count = min(size // self.batch_size, limit or size)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        for batch in range(self.count):
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(self.epoch, int(index)) for index in chosen]


def _workers(workers: int | None) -> int:
    """None is one process per core that this process may use, eight at most."""
    if workers is not None:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)


def train_loader(
    data: Splits, batch_size: int, seed: int, workers: int | None = 0, limit: int | None = None
) -> DataLoader:
    """Batches of (images (B, C, H, W), class numbers (B,)); the last incomplete batch is left out.

    Args:
        batch_size: images per step, at most the whole split.
        seed: of the order; ``loader.batch_sampler.epoch`` chooses the epoch.
        workers: processes that load; None is one per core, eight at most.
        limit: batches per epoch, for a quick look.

    Raises:
        UsageError: batch_size below one.
    """
    if batch_size < 1:
        raise UsageError(f"data.batch_size={batch_size}: expected at least 1")
    count = _workers(workers)
    batches = EpochBatches(len(data.train), batch_size, seed, limit)
    return DataLoader(
        cast(Dataset, data.train),
        batch_sampler=batches,
        num_workers=count,
        persistent_workers=count > 0,
        pin_memory=torch.cuda.is_available(),
    )


def eval_loader(
    dataset: Images, batch_size: int, workers: int | None = 0, limit: int | None = None
) -> DataLoader:
    """All images in order, the last incomplete batch included; ``limit`` as in ``train_loader``."""
    images = cast(Dataset, dataset)
    if limit is not None:
        images = Subset(images, range(min(len(dataset), limit * batch_size)))
    return DataLoader(
        images, batch_size=batch_size, num_workers=_workers(workers), pin_memory=torch.cuda.is_available()
    )
