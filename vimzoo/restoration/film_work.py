"""Restores ranges of a film's frames in one process; several processes may each have a worker for one film."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from vimzoo.errors import Failure, UsageError
from vimzoo.film.planes import planes_of
from vimzoo.film.reading import Film, Shown
from vimzoo.film.recording import Recorder
from vimzoo.film.segments import Segments
from vimzoo.film.writing import Setup

from .frames import Frames

__all__ = ["SEGMENT", "Range", "Timing", "Worker"]

SEGMENT = 48
"""Frames per part; as many are lost at most when a process is killed."""
Range: TypeAlias = tuple[int, int | None]
"""The first frame, and the one after the last; None: the end of the film."""


@dataclass
class Timing:
    """When the first wanted frame is shown and the last one ends, how long that is shown, and its number plus 1."""

    begin: Fraction
    end: Fraction
    last: Fraction
    stop: int


class Worker:
    """Decodes a film once from its start, and restores the ranges that it is given on the way.

    Args:
        film: An open film of which no frame was read.
        first: The first wanted frame.
        segments: Where parts are written.
        plan: Says how to restore and to write, given the film and its first frame.
        told: Called after each frame that was restored.

    Attributes:
        timing: Of the wanted frames that were decoded so far; None before the first of them.
        frames, setup: From ``plan``.

    Raises:
        UsageError: no frame can be decoded.
    """

    def __init__(
        self,
        film: Film,
        first: int,
        segments: Segments,
        plan: Callable[[Film, Shown], tuple[Frames, Setup]],
        told: Callable[[], object] = lambda: None,
    ) -> None:
        self.film, self.first, self.segments, self.told = film, first, segments, told
        self.timing: Timing | None = None
        self._shown: Iterator[Shown] = film.frames()
        self._next = 0
        start = next(self._shown, None)
        if start is None:
            raise UsageError(f"{film.path}: no frame can be decoded ({'; '.join(film.damage.report())})")
        self._shown = itertools.chain([start], self._shown)
        self._kind = _kind(start)
        self.frames, self.setup = plan(film, start)

    def __call__(self, wanted: Range) -> int:
        """Restore a range into parts; returns the number of its frames that exist.

        Raises:
            Failure: frames change their size or pixel format.
        """
        first, stop = wanted
        if first < self._next:  # what another process has not finished
            self.film.rewind()
            self._shown, self._next = self.film.frames(), 0
        count = 0
        with Recorder(self.segments, self.setup, first, SEGMENT) as recorder:
            for each in self.until(stop):
                if each.number >= first:
                    planes = self.frames(
                        planes_of(each.frame, self.frames.layout), each.frame.interlaced_frame
                    )
                    recorder.write(self.setup.frame(planes, each.pts), each.duration)
                    count += 1
                    self.told()
            recorder.close()
        return count

    def until(self, stop: int | None) -> Iterator[Shown]:
        """Decode the next frames up to number ``stop - 1``.

        Raises:
            Failure: frames change their size or pixel format.
        """
        while stop is None or self._next < stop:
            each = next(self._shown, None)
            if each is None:
                return
            self._next = each.number + 1
            if (kind := _kind(each)) != self._kind:
                raise Failure(f"frame {each.number} is of {kind}; expected {self._kind} as before")
            if each.number >= self.first:
                begin, last = each.pts * self.film.time_base, each.duration * self.film.time_base
                known = begin if self.timing is None else self.timing.begin
                self.timing = Timing(known, begin + last, last, self._next)
            yield each


def _kind(shown: Shown) -> str:
    return f"{shown.frame.width} x {shown.frame.height} {shown.frame.format.name}"
