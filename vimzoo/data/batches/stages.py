"""Progressive training: each stage of a run has its own crop and batch size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from vimzoo.errors import UsageError

from .drawing import EpochSampler, Request

KEYS = ("epochs", "crop", "batch_size")


@dataclass(frozen=True)
class Stage:
    """A part of a run.

    Attributes:
        epochs: Its length.
        crop: Side of the clean crops in pixels.
        batch_size: Crops per update, over all processes.
    """

    epochs: int
    crop: int
    batch_size: int


@dataclass(frozen=True)
class Stages:
    """The stages of a run in order; the last one lasts until the run ends.

    Every epoch has the same number of updates, so that schedules remain functions of the step.

    Attributes:
        parts: At least one.
        updates: In an epoch.
    """

    parts: tuple[Stage, ...]
    updates: int
    many_sizes: ClassVar[bool] = True
    any_shape: ClassVar[bool] = False
    order: ClassVar[tuple[str, ...]] = ("batch_size", "crop", "crops", "stages")

    def sampler(self, request: Request) -> StageBatches:
        """See `Batching.sampler`."""
        if request.balanced:
            raise UsageError("`balanced`: expected false with `stages`")
        if request.tokens is not None:
            raise UsageError(f"`tokens`={request.tokens}: expected `None` with `stages`")
        if request.repeats != 1:
            raise UsageError(f"`repeats`={request.repeats}: expected 1 with `stages`")
        if request.batch_size != (first := self.parts[0].batch_size):
            raise UsageError(
                f"`batch_size`={request.batch_size}: expected that of the first of `stages`, {first}"
            )
        return StageBatches(self, request.seed, **request.part)

    def tokens(self, height: int, width: int) -> None:
        """See `Batching.tokens`."""
        return None

    def at(self, epoch: int) -> Stage:
        """The stage of an epoch, counted from 0."""
        for stage in self.parts:
            if epoch < stage.epochs:
                return stage
            epoch -= stage.epochs
        return self.parts[-1]

    def before(self, epoch: int) -> int:
        """Number of crops in all earlier epochs."""
        return sum(self.at(past).batch_size for past in range(epoch)) * self.updates

    def summary(self) -> str:
        """Crops, batches and epochs of all stages."""
        said = (
            f"{stage.batch_size} crops of {stage.crop} px for {stage.epochs} epochs" for stage in self.parts
        )
        return f"{self.updates} updates an epoch: {', '.join(said)}"


def parsed_stages(asked: Sequence[Mapping[str, Any]], crops: int, scale: int) -> Stages:
    """Stages from mappings with the keys `KEYS`.

    Args:
        crops: Per epoch of the first stage.
        scale: Sides of crops are multiples of it.

    Raises:
        UsageError: there is none, one has other keys or values, or there are too few crops for a batch.
    """
    if not asked:
        raise UsageError("`stages`=[]: expected at least one stage, or `None` for crops of one size")
    for place, stage in enumerate(asked):
        if not _is_stage(stage):
            raise UsageError(
                f"`stages`[{place}]={stage}: expected {', '.join(KEYS)}, whole numbers from 1 on"
            )
        if stage["crop"] % scale:
            raise UsageError(
                f"`stages`[{place}].crop={stage['crop']}: expected a multiple of the scale, {scale}"
            )
    parts = tuple(Stage(**stage) for stage in asked)
    if crops < parts[0].batch_size:
        raise UsageError(
            f"`crops`={crops}: expected at least the first stage's batch_size, {parts[0].batch_size}"
        )
    return Stages(parts, crops // parts[0].batch_size)


def _is_stage(asked: Any) -> bool:
    if not isinstance(asked, Mapping) or set(asked) != set(KEYS):
        return False
    return all(isinstance(number, int) and number > 0 for number in asked.values())


class StageBatches(EpochSampler):
    """Shuffled batches of keys (epoch, index, height, width) of crops, sized by the epoch's stage.

    Indices count the crops of the whole run, so that an epoch continues where the previous one ended.
    Set ``epoch``, and ``start`` where batches of it are done already, before iterating.

    Args:
        seed: for the order.
        limit: batches per epoch.
        rank, world: this process draws part ``rank`` of ``world`` of every batch.

    Raises:
        UsageError: the batch of a stage cannot be divided evenly.
    """

    def __init__(
        self, stages: Stages, seed: int, limit: int | None = None, rank: int = 0, world: int = 1
    ) -> None:
        self.stages, self.seed = stages, seed
        self.rank, self.world = rank, world
        self.count = min(stages.updates, limit or stages.updates)
        for place, stage in enumerate(stages.parts):
            if stage.batch_size % world:
                raise UsageError(
                    f"`stages`[{place}].batch_size={stage.batch_size}: expected a multiple of `world`={world}"
                )

    def summary(self) -> str:
        """See `Stages.summary`."""
        return self.stages.summary()

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        stage, first = self.stages.at(self.epoch), self.stages.before(self.epoch)
        order = np.random.default_rng([self.seed, self.epoch]).permutation(
            self.stages.updates * stage.batch_size
        )
        part = stage.batch_size // self.world
        for batch in range(self.start, self.count):
            begin = batch * stage.batch_size + self.rank * part
            yield [
                (self.epoch, first + int(index), stage.crop, stage.crop)
                for index in order[begin : begin + part]
            ]
