"""Reads films: frames as they are decoded, one at a time, with their times and the damage that the decoder reports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
from av.codec.hwaccel import HWAccel

from vimzoo.errors import UsageError, first_line

from .damage import Damage
from .logs import errors_told

__all__ = ["ATTACHED", "Film", "Shown"]

ATTACHED = 0x400
"""FFmpeg's flag of a stream that is one picture, such as a cover."""


@dataclass(frozen=True)
class Shown:
    """A frame of a film.

    Attributes:
        number: Its place, counted from 0.
        frame: As decoded.
        pts: When it is shown, in units of the film's ``time_base``.
        duration: How long, in the same units.
    """

    number: int
    frame: av.VideoFrame
    pts: int
    duration: int


class Film:
    """An open film.

    Args:
        path: The file.
        hwaccel: FFmpeg's name of hardware that decodes, such as ``"cuda"``; None decodes on the CPU.

    Attributes:
        path: The file.
        container, video: PyAV's container, and the stream of pictures that is restored.
        damage: What the decoder has reported so far.
        time_base: The unit of times, in seconds.

    Raises:
        UsageError: the file cannot be opened, or has no moving pictures.
    """

    def __init__(self, path: Path, hwaccel: str | None = None) -> None:
        self.path, self.hwaccel = path, hwaccel
        self._open()

    def _open(self) -> None:
        path, hwaccel = self.path, self.hwaccel
        try:
            card = None if hwaccel is None else HWAccel(hwaccel, allow_software_fallback=False)
            # Absolute, because FFmpeg takes what stands before a colon for a protocol
            self.container = av.open(str(path.absolute()), hwaccel=card)
        except (OSError, ValueError, RuntimeError) as error:  # av.FFmpegError is one of these
            how = "" if hwaccel is None else f" with --hwaccel {hwaccel}"
            raise UsageError(f"{path}: cannot be opened as a film{how} ({first_line(error)})") from error
        moving = [s for s in self.container.streams.video if not s.disposition & ATTACHED]
        if not moving or moving[0].codec_context is None:
            self.container.close()
            raise UsageError(f"{path}: expected a film, found no moving pictures that FFmpeg can decode")
        self.video = moving[0]
        self.time_base = self.video.time_base or Fraction(1, 1000)
        self.damage = Damage()
        # Reports of other threads would come at another time than the packet that they are about
        if hwaccel is None:
            self.video.codec_context.thread_count = 1

    def rewind(self) -> None:
        """Open the file anew, to read its frames from the first one on."""
        self.container.close()
        self._open()

    def __enter__(self) -> Film:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.container.close()

    @property
    def rate(self) -> Fraction:
        """The nominal number of frames per second; films of variable rate have others too."""
        return self.video.average_rate or self.video.guessed_rate or Fraction(25)

    @property
    def count(self) -> int | None:
        """The number of frames, if the file tells; an estimate."""
        if self.video.frames:
            return self.video.frames
        return round(self.container.duration * self.rate / av.time_base) if self.container.duration else None

    @property
    def transparent(self) -> bool:
        """Whether there is transparency that FFmpeg's own decoder drops (VP8 and VP9)."""
        return self.video.metadata.get("alpha_mode", self.video.metadata.get("ALPHA_MODE")) == "1"

    def frames(self) -> Iterator[Shown]:
        """All frames that are shown, in this order."""
        held: tuple[int, av.VideoFrame, int] | None = None
        step = max(round(1 / (self.rate * self.time_base)), 1)
        for number, frame in enumerate(self._decoded()):
            pts = frame.pts
            if pts is None or (held is not None and pts <= held[2]):
                pts = 0 if held is None else held[2] + (step if pts is None else 1)
            if held is not None:
                yield Shown(*held, pts - held[2])
            held = number, frame, pts
        if held is not None:
            yield Shown(*held, held[1].duration or step)
            self._check_end((held[2] + step) * self.time_base)

    def _decoded(self) -> Iterator[av.VideoFrame]:
        number = 0
        decoder = self._alpha_decoder() if self.transparent else None
        for packet in self.container.demux(self.video):
            if packet.is_corrupt:
                self.damage.packet(packet.pts, "the packet is incomplete")
            with errors_told() as told:
                try:
                    frames = self._of_packet(packet, decoder)
                except (av.FFmpegError, EOFError) as error:
                    frames = []
                    self.damage.packet(packet.pts, first_line(error))
            for message in told:
                self.damage.packet(packet.pts, message)
            for frame in frames:
                seconds = None if frame.pts is None else float(frame.pts * self.time_base)
                self.damage.frame(number, seconds, frame.pts, frame.key_frame, frame.is_corrupt)
                number += 1
                yield frame

    @staticmethod
    def _of_packet(packet: Any, decoder: Any) -> list[Any]:
        return packet.decode() if decoder is None else decoder.decode(packet if packet.size else None)

    def _alpha_decoder(self) -> Any:
        name = {"vp9": "libvpx-vp9", "vp8": "libvpx"}[self.video.codec_context.codec.canonical_name]
        decoder = av.CodecContext.create(name, "r")
        decoder.extradata = self.video.codec_context.extradata
        decoder.thread_count = 1
        return decoder

    def _check_end(self, end: Fraction) -> None:
        """A film that was cut ends before its header says."""
        stated = self.container.duration
        start = max(self.container.start_time or 0, 0)
        missing = (stated + start) / av.time_base - float(end) if stated else 0.0
        if missing > 1:
            self.damage.note(f"the pictures end {missing:.1f} s before the end that the file states")
