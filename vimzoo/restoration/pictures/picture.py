"""A picture in memory, and the limits of each file format."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["FORMATS", "Picture", "PictureError", "check_fits", "format_of"]

FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP",
}  # fmt: skip
"""Formats by file name suffix, in lower case."""
LONGEST_SIDE = {"WEBP": 16_383, "JPEG": 65_500, "PNG": 1_000_000}
"""In pixels: the format's own limit for WebP, the limits of libjpeg and libpng for the others."""


class PictureError(ValueError):
    """A file that cannot be read or written as a picture; the message says why."""


@dataclass(frozen=True)
class Picture:
    """Pixels as stored, before the orientation is applied, with their metadata.

    Attributes:
        pixels: ``(H, W, channels)``, uint8 or uint16; grey, grey and alpha, RGB, or RGB and alpha.
        profile: ICC colour profile.
        exif: EXIF block with the orientation, without thumbnail.
        dpi: Resolution across and down, for printing.
    """

    pixels: np.ndarray
    profile: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None


def format_of(path: Path) -> str:
    """The format of a file name's suffix.

    Raises:
        PictureError: the suffix is not supported.
    """
    if path.suffix.lower() not in FORMATS:
        raise PictureError(f"{path.name}: expected a name ending in {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def check_fits(form: str, width: int, height: int, channels: int) -> None:
    """Check that a format can hold this many pixels and channels.

    Raises:
        PictureError: it does not.
    """
    longest = LONGEST_SIDE.get(form)
    if longest and max(width, height) > longest:
        larger = " or ".join(
            name for name in ("PNG", "TIFF") if LONGEST_SIDE.get(name, math.inf) >= max(width, height)
        )
        raise PictureError(
            f"{width} x {height} pixels do not fit into {form}, which ends at {longest}; choose {larger}"
        )
    if form == "JPEG" and channels in (2, 4):
        raise PictureError("JPEG has no alpha; choose PNG, TIFF or WebP")
