"""JPEG, of 8 bits or, as read, 12."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

import numpy as np

from .. import exif, xmp_extended
from ..numbers import to_16_bits
from ..picture import Picture, PictureError, check_size, needs
from ..record import Format, Header, Request
from ..through_pillow import header, read, save

LONGEST_SEGMENT = 65_533
"""Maximum size of a segment of a JPEG file, in bytes."""
_HEADER = 1 << 20
"""Bytes in which the metadata of a file of 12 bits are looked for."""
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers of a frame: bits, height, width, channels."""


def _frame(file: IO[bytes]) -> tuple[int, int, int] | None:
    """Bits per channel, width and height, from the first frame's header; None if there is none."""
    file.seek(2)
    while len(head := file.read(4)) == 4 and head[0] == 0xFF:
        if head[1] in _FRAMES and len(values := file.read(5)) == 5:
            return values[0], int.from_bytes(values[3:5], "big"), int.from_bytes(values[1:3], "big")
        file.seek(int.from_bytes(head[2:], "big") - 2, 1)
    return None


def _read(file: IO[bytes], request: Request) -> Picture:
    frame = _frame(file)
    if frame is None or frame[0] == 8:
        return read(file, request, "JPEG")
    bits, width, height = frame
    check_size(width, height, request.max_pixels)
    try:
        import imagecodecs
    except ImportError as error:
        raise needs("imagecodecs to read JPEG of 12 bits") from error
    file.seek(0)
    data = file.read()
    pixels = np.atleast_3d(imagecodecs.jpeg8_decode(data))
    if pixels.shape[2] not in (1, 3):
        raise PictureError(f"JPEG of {bits} bits with {pixels.shape[2]} channels; expected grey or colour")
    return Picture(to_16_bits(pixels, bits), *_segments(data), bits=bits)


def _segments(data: bytes) -> tuple[bytes | None, bytes | None]:
    """Colour profile and EXIF block of a file that Pillow cannot open."""
    place, profile, block = 2, b"", b""
    while data[place : place + 1] == b"\xff" and data[place + 1] != 0xDA:
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        body = data[place + 4 : place + 2 + length]
        if data[place + 1] == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
            profile += body[14:]
        elif data[place + 1] == 0xE1 and body.startswith(b"Exif\0\0"):
            block = body
        place += 2 + length
    return profile or None, exif.described(exif.Block.of(block))


def _header(file: IO[bytes]) -> Header:
    frame = _frame(file)
    if frame is None or frame[0] == 8:
        return header(file, "JPEG")
    file.seek(0)
    return (*frame[1:], exif.orientation(_segments(file.read(_HEADER))[1]))


def _write(file: IO[bytes], picture: Picture, quality: int) -> None:
    """Write, as far as a segment of JPEG has room for metadata."""
    dpi = picture.dpi if picture.dpi is not None and max(picture.dpi) < 65535 else None
    save(
        file,
        "JPEG",
        picture,
        quality=quality,
        subsampling=0,
        exif=exif.shortened(picture.exif, LONGEST_SEGMENT),
        dpi=dpi and (round(dpi[0]), round(dpi[1])),
        extra=b"".join([*_xmp_segments(picture), *_iptc_segment(picture)]),
    )


def _segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body


def _xmp_segments(picture: Picture) -> list[bytes]:
    """The segments of XMP; none if they cannot hold it."""
    if picture.xmp is None:
        return []
    try:
        return [_segment(0xE1, body) for body in xmp_extended.segments(picture.xmp, LONGEST_SEGMENT)]
    except ValueError:
        return []


def _iptc_segment(picture: Picture) -> list[bytes]:
    """The segment that holds IPTC's record as one of Photoshop's resources."""
    record = picture.iptc
    if record is None or len(record) > LONGEST_SEGMENT - 40:
        return []
    resource = b"8BIM\x04\x04\0\0" + len(record).to_bytes(4, "big") + record + b"\0" * (len(record) % 2)
    return [_segment(0xED, b"Photoshop 3.0\0" + resource)]


def _limits(picture: Picture) -> Iterator[str]:
    if picture.exif is not None and len(picture.exif) > LONGEST_SEGMENT:
        yield f"the longest entries of {len(picture.exif)} bytes of EXIF"
    if picture.xmp is not None and not _xmp_segments(picture):
        yield f"XMP of {len(picture.xmp)} bytes that cannot be divided"
    if picture.iptc is not None and not _iptc_segment(picture):
        yield f"{len(picture.iptc)} bytes of IPTC data"


FORMAT = Format(
    name="JPEG",
    suffixes=(".jpg", ".jpeg", ".jpe", ".jfif"),
    starts=lambda head: head.startswith(b"\xff\xd8\xff"),
    header=_header,
    read=_read,
    write=_write,
    longest=65_500,
    alpha=False,
    keeps=("iptc",),
    limits=_limits,
)
