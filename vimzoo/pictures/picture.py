"""A picture in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from .geo import GeoTag, enlarged

__all__ = ["MAX_PIXELS", "NO_PIXELS", "Picture", "PictureError", "check_size", "needs", "sound_dpi"]

NO_PIXELS = np.empty((0, 0, 1), np.uint8)
"""Of a picture whose pixels are elsewhere."""
MAX_PIXELS = 200_000_000
"""A small file may unpack to any size; pictures with more pixels are rejected by default."""


class PictureError(ValueError):
    """A file that cannot be read or written as a picture; the message says why."""


@dataclass(frozen=True)
class Picture:
    """Pixels as stored, before the orientation is applied, with their metadata.

    Attributes:
        pixels: ``(H, W, channels)``: grey, grey and alpha, RGB, or RGB and alpha. Integers of 8 or 16 bits use the
            whole range of their type; TIFF, EXR and PFM may hold other types of numbers. Colours are not premultiplied.
        profile: ICC colour profile.
        exif: EXIF block with the orientation, without thumbnail.
        dpi: Resolution across and down, for printing.
        bands: Further bands ``(H, W, bands)`` of the same type that are neither colour nor alpha, such as infrared.
        xmp: XMP packet, without orientation and sizes.
        iptc: IPTC-IIM record.
        texts: PNG's texts by keyword.
        chunks: PNG's chunks about colour, such as cICP and gAMA, by name.
        geo: GeoTIFF's tags, by number.
        cicp: Code points of colour primaries, transfer and matrix (ITU-T H.273), and whether the range is full.
        more: The other pages or frames, of the same size and kind, without metadata.
        bits: Bits per channel in the file, if known; AVIF of 10 bits stays so.
        other: A second picture of the same scene, which is to be joined with this one.
        lost: What the file holds besides and a result will not, in words.
        image: The pixels as Pillow decoded them, if 8 bits were enough (`Request.whole` is False); ``pixels`` is empty
            then, because each conversion would copy them.
    """

    pixels: np.ndarray
    profile: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    bands: np.ndarray | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    chunks: Mapping[bytes, bytes] = field(default_factory=dict)
    geo: Mapping[int, GeoTag] = field(default_factory=dict)
    cicp: tuple[int, int, int, int] | None = None
    more: tuple[Picture, ...] = ()
    bits: int | None = None
    other: Picture | None = field(default=None, compare=False)
    lost: tuple[str, ...] = field(default=(), compare=False)
    image: Image.Image | None = field(default=None, compare=False)

    def enlarged(self, pixels: np.ndarray, bands: np.ndarray | None, scale: int) -> Picture:
        """The same picture with ``scale`` times as many pixels across and down.

        It is printed as large as before, and covers the same ground.
        """
        dpi = self.dpi and (self.dpi[0] * scale, self.dpi[1] * scale)
        return replace(self, pixels=pixels, bands=bands, dpi=dpi, geo=enlarged(self.geo, scale), other=None)


def sound_dpi(values: object) -> tuple[float, float] | None:
    """A resolution as numbers, or None if a file states one that cannot be meant, such as 0/0 or 4e9."""
    try:
        across, down = (float(value) for value in values)  # type: ignore[attr-defined]
    except (TypeError, ValueError, ArithmeticError):
        return None
    fits = all(math.isfinite(value) and 0.01 <= value <= 1e7 for value in (across, down))
    return (across, down) if fits else None


def check_size(width: int, height: int, max_pixels: float) -> None:
    """Check a picture's size before it is unpacked.

    Raises:
        PictureError: it has no pixels, or more than ``max_pixels``.
    """
    if width < 1 or height < 1:
        raise PictureError(f"{width} x {height} pixels; expected at least one")
    if width * height > max_pixels:
        raise PictureError(
            f"{width} x {height} pixels; expected at most {max_pixels}, because a small file may unpack to any size"
        )


def needs(package: str, extra: str = "restore") -> PictureError:
    """The error of a file that only an optional package can read or write."""
    return PictureError(f"needs {package}; pip install 'vimzoo[{extra}]'")
