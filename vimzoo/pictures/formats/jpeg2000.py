"""JPEG 2000, read only; that of more than 8 bits through imagecodecs, because Pillow turns white to black."""

from __future__ import annotations

from typing import IO

import numpy as np

from ..numbers import to_16_bits
from ..picture import Picture, PictureError, check_size, needs
from ..record import Format, Request
from ..through_pillow import header_reader, load, opened


def _depth(file: IO[bytes]) -> tuple[int, bool]:
    """Bits of the first component, and whether it is signed, from the SIZ marker of the code stream."""
    place = file.tell()
    file.seek(0)
    header = file.read(1 << 20)
    file.seek(place)
    marker = header.find(b"\xff\x4f\xff\x51")
    value = header[marker + 42] if 0 <= marker < len(header) - 42 else 7
    return (value & 127) + 1, value > 127


def _read(file: IO[bytes], request: Request) -> Picture:
    bits, signed = _depth(file)
    if signed or bits > 16:
        raise PictureError(
            f"JPEG 2000 of {bits} bits{', signed' if signed else ''}; expected up to 16, unsigned"
        )
    with opened(file, "JPEG2000", request) as image:
        check_size(*image.size, request.max_pixels)
        deep = bits > 8 and (request.whole or len(image.getbands()) > 1)
        return load(image, request, _decoded(file, bits) if deep else None)


def _decoded(file: IO[bytes], bits: int) -> np.ndarray:
    try:
        import imagecodecs
    except ImportError as error:
        raise needs("imagecodecs to read JPEG 2000 of more than 8 bits") from error
    place = file.tell()
    file.seek(0)
    pixels = np.atleast_3d(imagecodecs.jpeg2k_decode(file.read()))
    file.seek(place)
    if pixels.shape[2] > 4:
        raise PictureError(f"JPEG 2000 with {pixels.shape[2]} channels; expected 1 to 4")
    return to_16_bits(pixels, bits)


FORMAT = Format(
    name="JPEG 2000",
    suffixes=(".jp2", ".j2k", ".j2c", ".jpx", ".jpf"),
    starts=lambda head: head[:4] == b"\xff\x4f\xff\x51" or head[:12] == b"\0\0\0\x0cjP  \r\n\x87\n",
    header=header_reader("JPEG2000"),
    read=_read,
)
