"""Batches that all hold the same number of images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vimzoo.errors import UsageError

from .drawing import EpochSampler, Request


@dataclass(frozen=True)
class Uniform:
    """Every batch holds ``batch_size`` images of one size."""

    many_sizes: ClassVar[bool] = False
    any_shape: ClassVar[bool] = False
    order: ClassVar[tuple[str, ...]] = (
        "batch_size",
        "repeats",
        "balanced",
        "crop",
        "crops",
        "sides",
        "stages",
    )

    def sampler(self, request: Request) -> EpochSampler:
        """See `Batching.sampler`."""
        if request.tokens is not None:
            raise UsageError(f"`tokens`={request.tokens}: expected `None` without `sides`")
        if request.balanced and (request.labels is None or request.repeats != 1):
            raise UsageError("`balanced`: expected images with known classes, and `repeats`=1")
        labels = request.labels if request.balanced else None
        return EpochBatches(
            request.images,
            request.batch_size,
            request.seed,
            **request.part,
            repeats=request.repeats,
            labels=labels,
        )

    def tokens(self, height: int, width: int) -> None:
        """See `Batching.tokens`."""
        return None


class EpochBatches(EpochSampler):
    """Shuffled full batches of keys (epoch, index); each process draws its part of every batch.

    Set ``epoch``, and ``start`` where batches of it are done already, before iterating.

    Args:
        size: images in the split.
        batch_size: over all processes.
        seed: for the order.
        limit: batches per epoch.
        repeats: how often an image occurs in a batch, with keys (epoch, index, repeat). The length of an epoch does not
            change, so it covers a fraction of the images (repeated augmentation, Hoffer et al., CVPR 2020).
        rank, world: this process draws part ``rank`` of ``world`` of every batch.
        labels: class numbers of the images. If given, all classes are drawn equally often, and images of small classes
            several times in an epoch, with keys (epoch, index, round).

    Raises:
        UsageError: the batch cannot be divided evenly, or ``repeats`` is below 1.
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
        self.rank, self.world = rank, world
        self.count = min(size // self.batch_size, limit or size)
        if self.batch_size % world:
            raise UsageError(
                f"`batch_size`={batch_size} of {size} images: expected a multiple of `world`={world}"
            )
        if repeats < 1:
            raise UsageError(f"`repeats`={repeats}: expected at least 1")

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        rng, part = np.random.default_rng([self.seed, self.epoch]), self.batch_size // self.world
        order = rng.permutation(self.size) if self.labels is None else self._balanced(rng)
        for batch in range(self.start, self.count):
            first = batch * self.batch_size + self.rank * part
            yield [self._key(order, place) for place in range(first, first + part)]

    def _balanced(self, rng: np.random.Generator) -> np.ndarray:
        """Indices and rounds (size, 2): as many images of each class, reshuffled whenever a class is used up."""
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
        """(epoch, index), and the repeat or round if an image occurs several times."""
        if self.labels is not None:
            return self.epoch, int(order[place, 0]), int(order[place, 1])
        index, repeat = int(order[place // self.repeats]), place % self.repeats
        return (self.epoch, index) if self.repeats == 1 else (self.epoch, index, repeat)
