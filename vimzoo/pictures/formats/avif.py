"""AVIF: metadata through Pillow, pixels of up to 12 bits through imagecodecs."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import IO, Any

import numpy as np

from .. import exif
from ..boxes import box, find, with_metadata
from ..numbers import to_16_bits
from ..picture import Picture, check_size, needs
from ..record import Format, Request
from ..through_pillow import header_reader, load, opened

_PROPERTIES = (b"meta", b"iprp", b"ipco")
_UNITS = 10_000
"""PNG states luminance in units of 0.0001 cd/m2, AVIF in whole ones."""
_UNKNOWN = (2, 2)
_SRGB = (1, 13, 6)
"""Code points of primaries, transfer and matrix."""
_IDENTITY = 0
"""The matrix of pixels that are stored as RGB, which alone is lossless."""


def _read(file: IO[bytes], request: Request) -> Picture:
    file.seek(0)
    data = file.read()
    with opened(io.BytesIO(data), "AVIF", request) as image:
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
    if _has_gain_map(data):
        picture = replace(picture, lost=(*picture.lost, "the gain map is left out"))
    usual = codes is None or codes[:2] in (_SRGB[:2], _UNKNOWN)
    return replace(picture, bits=bits, chunks=_light(data), cicp=None if usual else codes)


def _bits(data: bytes) -> int:
    """Bits per channel of the main item."""
    described = find(data, *_PROPERTIES, b"av1C")
    high, twelve = (described[0][2] & 0x40, described[0][2] & 0x20) if described else (0, 0)
    return 12 if twelve else 10 if high else 8


def _has_gain_map(data: bytes) -> bool:
    return any(about[8:12] == b"tmap" for about in find(data, b"meta", b"iinf", b"infe"))


def _light(data: bytes) -> dict[bytes, bytes]:
    """The light levels of HDR as PNG's chunks, which have other units and another order of primaries."""
    chunks = {}
    for body in find(data, *_PROPERTIES, b"clli"):
        chunks[b"cLLI"] = struct.pack(">II", *(value * _UNITS for value in struct.unpack(">HH", body[:4])))
    for body in find(data, *_PROPERTIES, b"mdcv"):
        chunks[b"mDCV"] = body[8:12] + body[:8] + body[12:24]
    return chunks


def _light_boxes(chunks: Mapping[bytes, bytes]) -> Iterator[bytes]:
    if (levels := chunks.get(b"cLLI")) is not None:
        values = (min(value // _UNITS, 65535) for value in struct.unpack(">II", levels))
        yield box(b"clli", struct.pack(">HH", *values))
    if (display := chunks.get(b"mDCV")) is not None:
        yield box(b"mdcv", display[4:12] + display[:4] + display[12:])


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
        pixelformat=None if grey else imagecodecs.AVIF.PIXEL_FORMAT.YUV444,
        primaries=primaries,
        transfer=transfer,
        matrix=_IDENTITY if lossless and not grey else matrix or 6,
    )
    orientation = exif.orientation(picture.exif)
    block = exif.with_orientation(exif.with_dpi(picture.exif, picture.dpi), 1)
    plain = None if block is None else block.removeprefix(exif.PREFIX)
    properties = [] if picture.profile is None else [box(b"colr", b"prof" + picture.profile)]
    properties += _light_boxes(picture.chunks)
    file.write(with_metadata(bytes(data), plain, picture.xmp, properties, orientation))


FORMAT = Format(
    name="AVIF",
    suffixes=(".avif",),
    starts=lambda head: head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"),
    header=header_reader("AVIF"),
    read=_read,
    write=_write,
    longest=65_535,
    bits=12,
    colours=True,
)
