"""AVIF: metadata through Pillow, pixels of up to 12 bits through imagecodecs."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import IO, Any

import numpy as np

from .. import exif
from ..boxes import find, with_metadata
from ..numbers import to_16_bits
from ..picture import Picture, check_size, needs
from ..record import Format, Request
from ..through_pillow import header_reader, load, opened, quiet

_PROPERTIES = (b"meta", b"iprp", b"ipco")
_SRGB = (1, 13, 6)
"""Code points of primaries, transfer and matrix."""
_IDENTITY = 0
"""The matrix of pixels that are stored as RGB, which alone is lossless."""


def _read(file: IO[bytes], request: Request) -> Picture:
    file.seek(0)
    data = file.read()
    with quiet(request), opened(io.BytesIO(data), "AVIF") as image:
        check_size(*image.size, request.max_pixels)
        if not request.whole:
            return load(image, request)
        try:
            import imagecodecs
        except ImportError as error:
            raise needs("imagecodecs to read AVIF") from error
        pixels = np.asarray(imagecodecs.avif_decode(data, index=0))
        bits = _bits(data)
        if pixels.dtype == np.uint16:
            pixels = to_16_bits(pixels, bits)
        picture = load(image, request, pixels)
    cicp = next((body for body in find(data, *_PROPERTIES, b"colr") if body[:4] == b"nclx"), None)
    codes: Any = None if cicp is None else (*(cicp[i + 1] for i in (4, 6, 8)), cicp[10] >> 7)
    return replace(
        picture, bits=bits, cicp=None if codes is None or codes[:2] in (_SRGB[:2], (2, 2)) else codes
    )


def _bits(data: bytes) -> int:
    """Bits per channel of the main item."""
    described = find(data, *_PROPERTIES, b"av1C")
    high, twelve = (described[0][2] & 0x40, described[0][2] & 0x20) if described else (0, 0)
    return 12 if twelve else 10 if high else 8


def _write(file: IO[bytes], picture: Picture, quality: int) -> None:
    try:
        import imagecodecs
    except ImportError as error:
        raise needs("imagecodecs to write AVIF") from error
    pixels, bits = picture.pixels, 8
    if pixels.dtype == np.uint16:
        bits = 10 if picture.bits == 10 else 12
        top = 2**bits - 1
        pixels = ((pixels.astype(np.uint32) * top + 32767) // 65535).astype(np.uint16)
    primaries, transfer, matrix = _SRGB if picture.cicp is None else picture.cicp[:3]
    if picture.profile is not None:
        primaries, transfer = 2, 2  # unspecified: the profile says it
    grey, lossless = pixels.shape[2] < 3, quality == 100
    data = imagecodecs.avif_encode(
        np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels),
        level=quality,
        bitspersample=bits,
        pixelformat=None if grey else "444",
        primaries=primaries,
        transfer=transfer,
        matrix=_IDENTITY if lossless and not grey else matrix or 6,
    )
    orientation = exif.orientation(picture.exif)
    block = exif.with_orientation(exif.with_dpi(picture.exif, picture.dpi), 1)
    plain = None if block is None else block.removeprefix(exif.PREFIX)
    file.write(with_metadata(bytes(data), plain, picture.xmp, picture.profile, orientation))


FORMAT = Format(
    name="AVIF",
    suffixes=(".avif",),
    starts=lambda head: head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"),
    header=header_reader("AVIF"),
    read=_read,
    write=_write,
    longest=65_535,
    deep=True,
    colours=True,
)
