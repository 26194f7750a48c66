"""HDR10's tags and others that FFmpeg attaches to frames."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from av.sidedata.sidedata import Type

__all__ = ["Light", "display_matrix", "left_out", "light_of"]

_LEFT_OUT = {
    "A53_CC": "closed captions inside the pictures",
    "DOVI_RPU_BUFFER": "Dolby Vision's metadata",
    "DOVI_METADATA": "Dolby Vision's metadata",
    "DYNAMIC_HDR_PLUS": "HDR10+ metadata",
    "DYNAMIC_HDR_VIVID": "HDR Vivid metadata",
    "SPHERICAL": "the projection of a spherical film",
    "STEREO3D": "the arrangement of a stereoscopic film",
    "ICC_PROFILE": "an ICC profile",
}


@dataclass(frozen=True)
class Light:
    """HDR10's tags.

    Attributes:
        display: Mastering display: x and y of red, green, blue and white, then the least and the most cd/m2.
        level: Brightest pixel and brightest frame in cd/m2.
    """

    display: tuple[Fraction, ...] | None = None
    level: tuple[int, int] | None = None

    def mastering(self, colour: int, luminance: int) -> str | None:
        """The mastering display as encoders take it, in integers: parts of 1 and of 1 cd/m2; 0 means decimals."""
        if self.display is None:
            return None
        spelt = [_spelt(value, colour) for value in self.display[:8]]
        low, high = (_spelt(value, luminance) for value in self.display[8:])
        red, green, blue, white = (f"({x},{y})" for x, y in zip(spelt[::2], spelt[1::2], strict=True))
        return f"G{green}B{blue}R{red}WP{white}L({high},{low})"


def _spelt(value: Fraction, parts: int) -> str:
    return str(round(value * parts)) if parts else f"{float(value):.8g}"


def light_of(frame: Any) -> Light:
    """HDR10's tags of a frame."""
    display = level = None
    if (data := frame.side_data.get(Type.MASTERING_DISPLAY_METADATA)) is not None:
        numbers = struct.unpack("<22i", bytes(data))
        values = [Fraction(a, b or 1) for a, b in zip(numbers[:20:2], numbers[1:20:2], strict=True)]
        display = tuple(values) if all(numbers[20:]) else None
    if (data := frame.side_data.get(Type.CONTENT_LIGHT_LEVEL)) is not None:
        first, second = struct.unpack("<2I", bytes(data))
        level = first, second
    return Light(display, level)


def display_matrix(frame: Any) -> tuple[int, ...] | None:
    """The nine numbers that turn and mirror a film when it is shown, if there are some."""
    data = frame.side_data.get(Type.DISPLAYMATRIX)
    return None if data is None else struct.unpack("<9i", bytes(data))


def left_out(frame: Any) -> list[str]:
    """What a frame carries besides and a result will not, in words."""
    present = {what for name, what in _LEFT_OUT.items() if frame.side_data.get(Type[name]) is not None}
    return sorted(present)
