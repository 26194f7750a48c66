"""Writes frames: the stream of pictures with all of its tags, and files that hold a part of it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from torch import Tensor

from .encoders import Encoder
from .planes import frame_of

__all__ = ["FORMATS", "Part", "Setup", "created"]

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""FFmpeg's formats of files by suffix."""


def created(path: Path, suffix: str, time_base: Fraction) -> Any:
    """A new file, in the format of a suffix.

    Args:
        path: Its name, of any suffix.
        suffix: Decides the format.
        time_base: The unit of the pictures' times, in which MP4 is to count all; otherwise it rounds starts to ms.
    """
    scale = {"movie_timescale": str(max(time_base.denominator, 1000))}
    options = scale if FORMATS[suffix] in ("mp4", "mov") else {}
    return av.open(str(path.absolute()), "w", format=FORMATS[suffix], container_options=options)


@dataclass(frozen=True)
class Setup:
    """What the pictures of a result are like.

    Attributes:
        encoder: Writes them.
        options: Its options.
        pix_fmt: FFmpeg's name of the pixel format.
        width, height: In pixels.
        rate: Nominal number of frames per second.
        time_base: Unit of the frames' times, in seconds.
        tags: Colour range, matrix, primaries and transfer by PyAV's names.
        aspect: Width of a pixel divided by its height; None: unknown.
        field_order: FFmpeg's code.
        matrix: Nine numbers that turn and mirror the film when it is shown.
    """

    encoder: Encoder
    options: dict[str, str]
    pix_fmt: str
    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    tags: dict[str, int]
    aspect: Fraction | None = None
    field_order: int = 0
    matrix: tuple[int, ...] | None = None

    def add_to(self, container: Any) -> Any:
        """A new stream in a container that is being written."""
        os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 would print its settings for every part
        stream = container.add_stream(self.encoder.name, rate=self.rate, options=self.options)
        stream.width, stream.height, stream.pix_fmt = self.width, self.height, self.pix_fmt
        context = stream.codec_context
        context.time_base = self.time_base
        for name, value in self.tags.items():
            setattr(context, name, value)
        if self.aspect:
            context.sample_aspect_ratio = self.aspect
        if self.field_order:
            context.field_order = self.field_order
        if self.matrix is not None:
            stream.set_display_matrix(list(self.matrix))
        return stream

    def frame(self, planes: list[Tensor], pts: int) -> av.VideoFrame:
        """A frame to encode, of rounded code values."""
        frame = frame_of(planes, self.pix_fmt)
        for name, value in self.tags.items():  # encoders read them from the stream, FFmpeg from frames
            setattr(frame, name, value)
        frame.pts, frame.time_base = pts, self.time_base
        return frame


class Part:
    """A file with some of a film's frames.

    Args:
        path: The file, of any name.
        suffix: Decides the file's format.
        setup: What the frames are like.
    """

    def __init__(self, path: Path, suffix: str, setup: Setup) -> None:
        self.container = created(path, suffix, setup.time_base)
        self.stream = setup.add_to(self.container)
        self.durations: dict[int, int] = {}

    def write(self, frame: av.VideoFrame, duration: int) -> None:
        """Encode a frame that is shown for ``duration`` units of the setup's ``time_base``."""
        assert frame.pts is not None
        self.durations[frame.pts] = duration
        self._mux(self.stream.encode(frame))

    def close(self) -> None:
        """Finish the file."""
        self._mux(self.stream.encode(None))
        self.container.close()

    def abandon(self) -> None:
        """Close the file as it is."""
        self.container.close()

    def _mux(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            packet.duration = self.durations.pop(packet.pts, 0)
            self.container.mux(packet)
