"""How batches are drawn: what every way of drawing them offers to a training loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler[list[tuple[int, ...]]]):
    """The batches of one epoch; each batch is a list of keys, see `vimzoo.data.Splits`.

    Attributes:
        epoch: Set it before iterating; counted from 0.
        start: Batches of that epoch that are done already; set it to resume within an epoch.
        count: Batches of a whole epoch.
    """

    epoch: int = 0
    start: int = 0
    count: int

    def __len__(self) -> int:
        """Batches of a whole epoch, whatever ``start`` is."""
        return self.count

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        raise NotImplementedError

    def summary(self) -> str | None:
        """The sizes of images and batches, for display; None if all are the same."""
        return None


@dataclass(frozen=True)
class Request:
    """What a training loop asks of a way of drawing batches.

    Attributes:
        images: In the training split.
        batch_size: Images per update, over all processes.
        seed: Of the order.
        labels: Class numbers of the images (N,), if they are known.
        limit: Batches per epoch; None is all.
        rank, world: Which process this is, of how many.
        repeats, tokens, balanced: As in `vimzoo.data.train_loader`.
    """

    images: int
    batch_size: int
    seed: int
    labels: np.ndarray | None = None
    limit: int | None = None
    rank: int = 0
    world: int = 1
    repeats: int = 1
    tokens: int | None = None
    balanced: bool = False

    @property
    def part(self) -> dict[str, Any]:
        """The keyword arguments that all samplers share."""
        return {"limit": self.limit, "rank": self.rank, "world": self.world}


class Batching(Protocol):
    """A way of drawing batches; each data set has one.

    Attributes:
        many_sizes: Whether batches differ in the size of their images or in the number of them.
        any_shape: Whether a model has to take images of any height and width.
        order: Arguments of the data set and the loader that decide which images a batch holds, and which way of
            drawing them is taken; they have to stay the same when a run resumes within an epoch.
    """

    many_sizes: ClassVar[bool]
    any_shape: ClassVar[bool]
    order: ClassVar[tuple[str, ...]]

    def sampler(self, request: Request) -> EpochSampler:
        """The batches of this process.

        Raises:
            UsageError: An argument does not fit this way of drawing batches.
        """

    def tokens(self, height: int, width: int) -> int | None:
        """Tokens of an image; None where batches are not measured in tokens."""
