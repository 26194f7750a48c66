"""Batches of one image size each, from images of many sizes and shapes, under a token budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
from torch.utils.data import Sampler

from vimzoo.errors import UsageError

from .drawing import EpochSampler, Request

OCTAVES = 0.25  # between the aspect ratios of neighbouring bins: at most 9 % of an image is cropped
Shape = tuple[int, int]  # height and width in pixels


@dataclass(frozen=True)
class Shapes:
    """All image sizes of a training: squares of given sides, and oblong shapes of the same areas.

    A bin is an aspect ratio; it holds one shape per side.

    Attributes:
        sides: in pixels, multiples of ``step``.
        step: heights and widths are multiples of it; a token is ``step`` x ``step`` pixels.
        max_aspect: longer over shorter side of the most oblong shape; 1 is squares only.

    Raises:
        UsageError: a side is not a multiple of ``step``, there is no side, or ``max_aspect`` is out of range.
    """

    sides: tuple[int, ...]
    step: int = 16
    max_aspect: float = 2.0

    def __post_init__(self) -> None:
        if self.step < 1:
            raise UsageError(f"`step`={self.step}: expected at least 1 pixel")
        if not self.sides or any(side < self.step or side % self.step for side in self.sides):
            raise UsageError(
                f"`sides`={list(self.sides)}: expected multiples of `step`={self.step}, such as "
                f"[{10 * self.step},{14 * self.step}]"
            )
        if not 1 <= self.max_aspect <= 16:
            raise UsageError(f"`max_aspect`={self.max_aspect}: expected 1 (squares) to 16")

    @property
    def oblong(self) -> int:
        """Number of landscape bins (as many are portrait); bin ``oblong`` is the square."""
        return int(math.log2(self.max_aspect) / OCTAVES + 1e-9)

    def kinds(self, sizes: np.ndarray) -> np.ndarray:
        """The nearest bins (N,) of images with heights and widths ``sizes`` (N, 2), from portrait to landscape."""
        octaves = np.log2(sizes[:, 1] / sizes[:, 0])
        return (np.round(octaves / OCTAVES).clip(-self.oblong, self.oblong) + self.oblong).astype(np.int64)

    def shape(self, kind: int, side: int) -> Shape:
        """Height and width of the shape of a bin with about the area of a square of ``side``."""
        stretch = 2 ** ((kind - self.oblong) * OCTAVES / 2)
        height, width = (max(1, round(length / self.step)) for length in (side / stretch, side * stretch))
        return height * self.step, width * self.step

    def tokens(self, shape: Shape) -> int:
        """Tokens of one image."""
        return (shape[0] // self.step) * (shape[1] // self.step)


@dataclass(frozen=True)
class Buckets:
    """Batches of one size each, as many images as a budget of tokens allows.

    Attributes:
        bins: The bin of every training image, (N,), as ``shapes.kinds`` gives them.
        size: Height and width that ``batch_size`` images fill the default budget with.
    """

    shapes: Shapes
    bins: np.ndarray
    size: Shape
    many_sizes: ClassVar[bool] = True
    any_shape: ClassVar[bool] = True
    order: ClassVar[tuple[str, ...]] = ("batch_size", "tokens", "sides", "step", "max_aspect")

    def sampler(self, request: Request) -> BucketBatches:
        """See `Batching.sampler`."""
        if request.balanced:
            raise UsageError("`balanced`: expected false with `sides`")
        if request.repeats != 1:
            raise UsageError(f"`repeats`={request.repeats}: expected 1 with `sides`")
        budget = request.tokens or request.batch_size * self.shapes.tokens(self.size)
        return BucketBatches(self.shapes, self.bins, budget, request.seed, **request.part)

    def tokens(self, height: int, width: int) -> int:
        """See `Batching.tokens`."""
        return self.shapes.tokens((height, width))


class BucketBatches(EpochSampler):
    """Shuffled batches of keys (epoch, index, height, width); all images of a batch have one height and width.

    A batch holds as many images as its token budget allows, so small images come in large batches and nothing is
    padded. Each bin is cut into batches whose sides are drawn in turn; leftovers are batched with those of neighbouring
    bins. The batch sizes of an epoch are always the same, in another order and with other images, so every epoch has
    the same number of updates.

    Set ``epoch``, and ``start`` where batches of it are done already, before iterating.

    Args:
        kinds: the bin of every image, (N,), from ``shapes.kinds``.
        tokens: budget of a batch, over all processes.
        seed: for sides and order.
        limit: batches per epoch.
        rank, world: this process draws part ``rank`` of ``world`` of every batch.

    Raises:
        UsageError: the budget is too small for two images per process, or there are too few images for a batch.
    """

    def __init__(
        self,
        shapes: Shapes,
        kinds: np.ndarray,
        tokens: int,
        seed: int,
        limit: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.shapes, self.budget, self.seed = shapes, tokens, seed
        self.rank, self.world = rank, world
        self.order = np.argsort(kinds, kind="stable")  # all images, bin by bin
        self.bounds = np.searchsorted(kinds[self.order], np.arange(2 * shapes.oblong + 2))
        self.plan = self._plan()
        self.count = min(len(self.plan), limit or len(self.plan))
        if not self.plan:
            raise UsageError(
                f"`tokens`={tokens}: {len(kinds)} images do not fill a batch of any of `sides`="
                f"{list(shapes.sides)}; expected a smaller `tokens` or `batch_size`"
            )

    def images(self, shape: Shape) -> int:
        """Images in a batch of that shape: as many as fit the budget, an even number for each process."""
        pair = 2 * self.world  # mixup takes even numbers
        fitting = self.budget // self.shapes.tokens(shape) // pair * pair
        if not fitting:
            raise UsageError(
                f"`tokens`={self.budget}: expected at least {pair * self.shapes.tokens(shape)}, for "
                f"{pair} images of {shape[0]}x{shape[1]} with `world`={self.world}"
            )
        return fitting

    def _plan(self) -> list[tuple[Shape, np.ndarray]]:
        """The shape of every batch, and its positions in the epoch's order of images, which is shuffled within bins."""
        rng = np.random.default_rng(self.seed)
        plan: list[tuple[Shape, np.ndarray]] = []
        left: list[int] = []
        for kind, (first, last) in enumerate(pairwise(self.bounds.tolist())):
            for shape in self._sides(kind, rng):
                if first + self.images(shape) > last:
                    shape = self.shapes.shape(kind, max(self.shapes.sides))  # takes the fewest images
                if first + self.images(shape) > last:
                    break
                plan.append((shape, np.arange(first, first + self.images(shape))))
                first += self.images(shape)
            left += range(first, last)
        return plan + self._mixed(np.array(left, dtype=np.int64), rng)

    def _sides(self, kind: int, rng: np.random.Generator) -> Iterator[Shape]:
        """Shapes of one bin, endlessly: all sides in random order, then again."""
        while True:
            for side in rng.permutation(self.shapes.sides):
                yield self.shapes.shape(kind, int(side))

    def _mixed(self, places: np.ndarray, rng: np.random.Generator) -> list[tuple[Shape, np.ndarray]]:
        """Batches of leftovers from all bins, each in its middle image's bin; a final remainder is dropped."""
        plan = []
        while len(places):
            for side in [int(rng.choice(self.shapes.sides)), max(self.shapes.sides)]:
                middle = places[min(len(places), self.images(self._like(places[0], side))) // 2]
                shape = self._like(middle, side)
                if self.images(shape) <= len(places):
                    break
            else:
                break
            plan.append((shape, places[: self.images(shape)]))
            places = places[self.images(shape) :]
        return plan

    def _like(self, place: int, side: int) -> Shape:
        """The shape of that side in the bin of the image at a position of the order."""
        return self.shapes.shape(int(np.searchsorted(self.bounds, place, side="right")) - 1, side)

    def summary(self) -> str:
        """Number and range of sizes, and how well the token budget is used."""
        sizes = sorted({shape for shape, _ in self.plan}, key=self.shapes.tokens)
        images = [len(places) for _, places in self.plan]
        used = sum(self.shapes.tokens(shape) * len(places) for shape, places in self.plan)
        first, last = ("x".join(map(str, size)) for size in (sizes[0], sizes[-1]))
        return (
            f"{len(sizes)} from {first} to {last}, {min(images)} to {max(images)} images a batch, "
            f"{100 * used / (self.budget * len(self.plan)):.0f} % of {self.budget} tokens used, "
            f"{len(self.order) - sum(images)} of {len(self.order)} images left out of an epoch"
        )

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        parts = [rng.permutation(part) for part in np.split(self.order, self.bounds[1:-1])]
        order, batches = np.concatenate(parts), rng.permutation(len(self.plan))
        for number in batches[self.start : self.count]:
            shape, places = self.plan[number]
            mine = places[self.rank * len(places) // self.world : (self.rank + 1) * len(places) // self.world]
            yield [(self.epoch, int(index), *shape) for index in order[mine]]


class ShapeBatches(Sampler[list[int]]):
    """All images in order, in batches of one shape, for evaluation; images of a shape are adjacent.

    Args:
        shapes: height and width of every image, (N, 2).
        batch_size: largest number of images.
    """

    def __init__(self, shapes: Sequence[Shape], batch_size: int) -> None:
        edges = [0, *(i for i in range(1, len(shapes)) if shapes[i] != shapes[i - 1]), len(shapes)]
        self.batches = [
            list(range(first, min(first + batch_size, stop)))
            for start, stop in pairwise(edges)
            for first in range(start, stop, batch_size)
        ]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)
