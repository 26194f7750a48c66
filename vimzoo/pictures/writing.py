"""The writer of picture files."""

from __future__ import annotations

import io
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from vimzoo.files import whole_file

from . import exif
from .formats import SUFFIXES, WRITTEN
from .picture import Picture, PictureError
from .record import Format

__all__ = ["check_fits", "encoded", "format_of", "left_out", "write_picture"]

_OPTIONAL = {"iptc": "IPTC data", "texts": "texts", "geo": "GeoTIFF's position"}
"""What a picture is left without where a format has no room for it."""
_SRGB_GAMMA = struct.pack(">I", 45455)
_SRGB_PRIMARIES = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
"""What gAMA and cHRM of PNG say of sRGB, which every program assumes without them."""


def write_picture(picture: Picture, path: Path, *, quality: int = 95) -> None:
    """Write a picture in the format of the name's suffix; an existing file is replaced atomically.

    Args:
        picture: The picture to write. Where the format has 8 bits, 16 are rounded.
        path: A name with a suffix of `vimzoo.pictures.formats.WRITTEN`.
        quality: Quality of lossy formats, 1 to 100; 100 is lossless, except for JPEG.

    Raises:
        OSError: the file cannot be written.
        PictureError: the format is not supported or cannot hold the picture.
    """
    form = format_of(path)
    picture = _fitted(picture, form)
    with whole_file(path) as file:
        _encode(file, picture, form, quality)


def encoded(picture: Picture, name: Path, quality: int = 95) -> bytes:
    """The content of the file that `write_picture` writes under a name.

    Raises:
        PictureError: as there.
    """
    form, file = format_of(name), io.BytesIO()
    _encode(file, _fitted(picture, form), form, quality)
    return file.getvalue()


def _fitted(picture: Picture, form: Format) -> Picture:
    """A picture without a profile for other channels, and whose metadata state its size."""
    height, width = picture.pixels.shape[:2]
    check_fits(form, width, height, picture)
    return replace(picture, profile=_profile(picture), exif=exif.resized(picture.exif, width, height))


def _profile(picture: Picture) -> bytes | None:
    """The colour profile, if it is for these channels."""
    wanted = b"RGB " if picture.pixels.shape[2] > 2 else b"GRAY"
    return picture.profile if picture.profile is not None and picture.profile[16:20] == wanted else None


def _encode(file: IO[bytes], picture: Picture, form: Format, quality: int) -> None:
    assert form.write is not None
    form.write(file, picture, quality)


def left_out(picture: Picture, form: Format) -> str | None:
    """What a format has no room for and is left out, in words."""
    names = [words for name, words in _OPTIONAL.items() if getattr(picture, name) and name not in form.keeps]
    names += ["gamma and primaries (gAMA, cHRM)"] if "gamma" not in form.keeps and _own_curve(picture) else []
    names += ["HDR's light levels"] if {b"mDCV", b"cLLI"} & set(picture.chunks) and not form.colours else []
    if picture.pixels.dtype == np.uint16 and (picture.bits or 16) > form.bits:
        names.append(f"more than {form.bits} bits")
    names += form.limits(picture)
    return f"{form.name} has no room for {', '.join(names)}" if names else None


def _own_curve(picture: Picture) -> bool:
    """Whether gAMA and cHRM are the only statement of a picture's colours, and state others than sRGB."""
    chunks = picture.chunks
    if picture.profile is not None or picture.cicp is not None or b"sRGB" in chunks:
        return False
    gamma, primaries = chunks.get(b"gAMA", _SRGB_GAMMA), chunks.get(b"cHRM", _SRGB_PRIMARIES)
    return gamma != _SRGB_GAMMA or primaries != _SRGB_PRIMARIES


def format_of(path: Path) -> Format:
    """The format of a file name's suffix.

    Raises:
        PictureError: no pictures are written under this suffix.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITTEN:
        more = f" ({SUFFIXES[suffix].name} is only read)" if suffix in SUFFIXES else ""
        raise PictureError(f"{path.name}: expected a name ending in {', '.join(WRITTEN)}{more}")
    return WRITTEN[suffix]


def check_fits(form: Format, width: int, height: int, picture: Picture) -> None:
    """Check that a format can hold a picture of this size with the channels and numbers of ``picture``.

    Raises:
        PictureError: it cannot.
    """
    if form.longest and max(width, height) > form.longest:
        larger = " or ".join(
            name
            for name in ("PNG", "TIFF")
            if max(width, height) <= (WRITTEN[f".{name[:4].lower()}"].longest or math.inf)
        )
        raise PictureError(
            f"{width} x {height} pixels do not fit into {form.name}, which ends at {form.longest}; choose {larger}"
        )
    if picture.pixels.shape[2] in (2, 4) and not form.alpha:
        raise PictureError(f"{form.name} has no alpha; choose PNG, TIFF or WebP")
    floats = picture.pixels.dtype.kind == "f" and form.numbers  # linear light, as ever in TIFF
    if picture.cicp is not None and picture.profile is None and not form.colours and not floats:
        codes = "/".join(map(str, picture.cicp[:2]))
        raise PictureError(f"{form.name} cannot state the colours (cICP {codes}); choose PNG or AVIF")
    if picture.more and not form.pages:
        raise PictureError(f"{form.name} holds one page, and there are {len(picture.more) + 1}; choose TIFF")
    if picture.bands is not None and not form.numbers:
        raise PictureError(f"{form.name} has no room for {picture.bands.shape[2]} further bands; choose TIFF")
    if picture.pixels.dtype not in (np.uint8, np.uint16) and not form.numbers:
        raise PictureError(f"{form.name} has no pixels of {picture.pixels.dtype}; choose TIFF")
    if (reason := form.refused(replace(picture, profile=_profile(picture)))) is not None:
        raise PictureError(reason)
