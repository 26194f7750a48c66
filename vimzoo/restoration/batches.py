"""Batches of tiles from several pictures.

Restoring a picture is a generator: it yields `Tiles`, is sent the model's answer, and returns its result. Several of
them advance side by side, so that tiles of equal size share a batch. The order depends on the pictures alone, not on
time, so the same pictures form the same batches again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from vimzoo.errors import is_out_of_memory

__all__ = ["Runner", "Steps", "Tiles", "interleaved", "run_alone"]

Result = TypeVar("Result")
Key = TypeVar("Key")
_logger = logging.getLogger(__name__)

ROOM = 1 << 22
"""Pixels of pictures in work above which no further one is begun to fill a batch."""


@dataclass(frozen=True)
class Tiles:
    """Tiles that wait for the model.

    Attributes:
        tiles: ``(B, C, h, w)``, numbers as stored.
        places: Their positions (row, column) in the picture's grid.
        part: 0 for colour or grey, 1 for alpha.
        white: The number that stands for white.
    """

    tiles: Tensor
    places: list[tuple[int, int]]
    part: int
    white: float

    @property
    def kind(self) -> tuple[object, ...]:
        """What tiles of one batch have in common."""
        return self.tiles.shape[1:], self.tiles.dtype, self.part, self.white


Steps: TypeAlias = Generator[Tiles, Tensor, Result]


class Runner(Protocol):
    """The model, such as `Restorer`, and how many tiles it takes at once; fewer after it has run out of memory."""

    batch: int

    def run(self, asked: Tiles) -> Tensor:
        """The model's answer."""


def run_alone(steps: Steps[Result], run: Callable[[Tiles], Tensor]) -> Result:
    """The result of one picture."""
    try:
        asked = next(steps)
        while True:
            try:
                answer = run(asked)
            except Exception as error:
                asked = steps.throw(error)
            else:
                asked = steps.send(answer)
    except StopIteration as end:
        return end.value


@dataclass
class _Active(Generic[Key, Result]):
    key: Key
    steps: Steps[Result]
    pixels: int
    asked: Tiles


def interleaved(
    works: Iterable[tuple[Key, Steps[Result], int]], runner: Runner
) -> Iterator[tuple[Key, Result | Exception]]:
    """The results of several pictures, as they are finished.

    A picture is begun when the batch of the oldest one has room for its tiles.

    Args:
        works: Name, generator and number of pixels of each picture; taken one by one.
        runner: Runs the model.

    Yields:
        The name and the result, or the error that ended the picture.
    """
    source, active, more = iter(works), list[_Active[Key, Result]](), True
    while active or more:
        while more and _has_room(active, runner.batch):
            try:
                key, steps, pixels = next(source)
            except StopIteration:
                more = False
                break
            try:
                active.append(_Active(key, steps, pixels, next(steps)))
            except StopIteration as end:
                yield key, end.value
            except Exception as error:
                yield key, error
        together = _together(active, runner.batch)
        for picture, answer in zip(together, _answers(together, runner), strict=True):
            try:
                if isinstance(answer, Exception):
                    picture.asked = picture.steps.throw(answer)
                else:
                    picture.asked = picture.steps.send(answer)
                continue
            except StopIteration as end:
                result: Result | Exception = end.value
            except Exception as error:
                result = error
            active.remove(picture)
            yield picture.key, result


def _has_room(active: list[_Active[Key, Result]], batch: int) -> bool:
    if not active:
        return True
    waiting = sum(len(p.asked.places) for p in active if p.asked.kind == active[0].asked.kind)
    return waiting < batch and sum(p.pixels for p in active) < ROOM


def _together(active: list[_Active[Key, Result]], batch: int) -> list[_Active[Key, Result]]:
    """The oldest picture, and others whose tiles fit into its batch."""
    chosen, count = active[:1], sum(len(picture.asked.places) for picture in active[:1])
    for picture in active[1:]:
        tiles = len(picture.asked.places)
        if picture.asked.kind == chosen[0].asked.kind and count + tiles <= batch:
            chosen.append(picture)
            count += tiles
    return chosen


def _answers(together: list[_Active[Key, Result]], runner: Runner) -> Iterator[Tensor | Exception]:
    """The model's answers; if those of all at once fail, of one picture after the other."""
    asked = [picture.asked for picture in together]
    if len(asked) > 1:
        places = [place for each in asked for place in each.places]
        tiles = torch.cat([each.tiles for each in asked])
        try:
            answer = runner.run(Tiles(tiles, places, asked[0].part, asked[0].white))
        except Exception as error:
            if is_out_of_memory(error):
                runner.batch = max(1, min(runner.batch, len(places) // 2))
                _logger.warning(
                    "out of memory with %d tiles at once; continuing with %d", len(places), runner.batch
                )
        else:
            yield from answer.split([len(each.places) for each in asked])
            return
    for each in asked:
        try:
            yield runner.run(each)
        except Exception as error:
            yield error
