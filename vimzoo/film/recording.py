"""Writes frames into parts that are closed one after another."""

from __future__ import annotations

from types import TracebackType

import av

from vimzoo.files import remove

from .segments import Segments
from .writing import Part, Setup

__all__ = ["Recorder"]


class Recorder:
    """Writes consecutive frames into the parts of a film.

    Args:
        segments: The folder of parts.
        setup: What frames are like.
        first: Number of the first frame.
        length: Frames per part.
    """

    def __init__(self, segments: Segments, setup: Setup, first: int, length: int) -> None:
        self.segments, self.setup, self.length = segments, setup, length
        self.first = self.stop = first
        self.part: Part | None = None

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.part is not None:
            self.part.abandon()
            remove(self.segments.unfinished(self.first))

    def write(self, frame: av.VideoFrame, duration: int) -> None:
        """Write the next frame; see `Part.write`."""
        if self.part is None:
            self.part = Part(self.segments.unfinished(self.first), self.segments.suffix, self.setup)
        self.part.write(frame, duration)
        self.stop += 1
        if self.stop - self.first == self.length:
            self.close()

    def close(self) -> None:
        """Finish the part that is being written."""
        if self.part is not None:
            self.part.close()
            self.part = None
            self.segments.finish(self.first, self.stop)
            self.first = self.stop
