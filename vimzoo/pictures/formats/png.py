"""PNG; that of 16 bits through imagecodecs, because Pillow would cut colours to 8."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import IO, Any

import numpy as np
from PIL import Image

from .. import exif
from ..picture import Picture, check_size, needs
from ..png_encoder import compressed
from ..record import Format, Header, Request
from ..through_pillow import load, opened

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""How PNG numbers grey and colour, with and without alpha, by channels."""
_LONGEST_CHUNK = 1 << 30
_COLOUR_CHUNKS = (b"cICP", b"mDCV", b"cLLI", b"gAMA", b"cHRM", b"sRGB")
_XMP = "XML:com.adobe.xmp"
_MANAGED = (_XMP, "Raw profile type ", "Thumb::")
"""Texts that are metadata of other kinds, and sizes of thumbnails."""


def _header(file: IO[bytes]) -> Header:
    with opened(file, "PNG") as image:
        late = _describes_late(image)
        # PNG's own getexif decodes all pixels first
        block = image.getexif if late else partial(Image.Image.getexif, image)
        return (*image.size, exif.header_orientation(block))


def _describes_late(image: Image.Image) -> bool:
    """Whether a PNG file has, after its pixels, an entry that may hold an orientation; walks over its chunks."""
    # a buffer would read what is skipped
    file: Any = getattr(image.fp, "raw", image.fp)  # type: ignore[attr-defined]
    place = file.tell()
    try:
        file.seek(len(_SIGNATURE))
        pixels_seen = False
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if pixels_seen and kind == b"eXIf":
                return True
            if pixels_seen and kind in (b"tEXt", b"zTXt", b"iTXt"):
                keyword = file.read(min(length, 80)).split(b"\0")[0]
                if keyword in (_XMP.encode(), b"Raw profile type exif"):
                    return True
                length -= min(length, 80)
            pixels_seen = pixels_seen or kind == b"IDAT"
            file.seek(length + 4, 1)  # a chunk's checksum follows it
        return False
    finally:
        file.seek(place)


def _read(file: IO[bytes], request: Request) -> Picture:
    with opened(file, "PNG", request) as image:
        check_size(*image.size, request.max_pixels)
        picture = load(image, request, _deep(file) if request.whole else None)
        if not request.whole:
            return picture
        texts = {name: str(text) for name, text in image.text.items() if not name.startswith(_MANAGED)}  # type: ignore[attr-defined]
    chunks = dict(_chunks(file))
    cicp = chunks.get(b"cICP", b"")
    return replace(
        picture,
        texts=texts,
        chunks={name: chunks[name] for name in _COLOUR_CHUNKS if name in chunks},
        cicp=(cicp[0], cicp[1], cicp[2], cicp[3]) if len(cicp) == 4 else None,
    )


def _chunks(file: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The short chunks before the pixels."""
    file.seek(len(_SIGNATURE))
    while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
        length = int.from_bytes(head[:4], "big")
        if length <= 64:
            yield head[4:], file.read(length)
        else:
            file.seek(length, 1)
        file.seek(4, 1)  # the checksum


def _deep(file: IO[bytes]) -> np.ndarray | None:
    """Pixels of a 16-bit PNG, ``(H, W)`` or ``(H, W, 2 to 4)``; None for fewer bits."""
    place = file.tell()
    try:
        file.seek(24)  # IHDR: bits per channel
        if file.read(1) != b"\x10":
            return None
        import imagecodecs

        file.seek(0)
        return imagecodecs.png_decode(file.read())
    except ImportError as error:
        raise needs("imagecodecs to read PNG of 16 bits") from error
    finally:
        file.seek(place)


def _write(file: IO[bytes], picture: Picture, quality: int) -> None:
    height, width, channels = picture.pixels.shape
    size = struct.pack(
        ">IIBBBBB", width, height, 8 * picture.pixels.itemsize, _COLOUR_TYPES[channels], 0, 0, 0
    )
    file.write(_SIGNATURE + _chunk(b"IHDR", size))
    for name, body in _described(picture):
        file.write(_chunk(name, body))
    data = compressed(picture.pixels)
    for first in range(0, len(data), _LONGEST_CHUNK):
        file.write(_chunk(b"IDAT", data[first : first + _LONGEST_CHUNK]))
    file.write(_chunk(b"IEND", b""))


def _described(picture: Picture) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a picture's metadata."""
    yield from picture.chunks.items()
    if picture.cicp is not None and b"cICP" not in picture.chunks:
        primaries, transfer, _, full = picture.cicp
        yield b"cICP", bytes((primaries, transfer, 0, full))  # pixels are RGB, whatever the matrix was
    if picture.profile is not None:
        yield b"iCCP", b"icc\0\0" + zlib.compress(picture.profile)
    if picture.dpi is not None:
        yield b"pHYs", struct.pack(">IIB", *(round(dpi / 0.0254) for dpi in picture.dpi), 1)
    if picture.exif is not None:
        yield b"eXIf", picture.exif.removeprefix(exif.PREFIX)
    texts = {name: text.encode() for name, text in picture.texts.items()}
    if picture.xmp is not None:
        texts[_XMP] = picture.xmp
    for name, text in texts.items():
        yield b"iTXt", name.encode("latin-1", "replace") + b"\0\0\0\0\0" + text


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


FORMAT = Format(
    name="PNG",
    suffixes=(".png",),
    starts=lambda head: head.startswith(_SIGNATURE),
    header=_header,
    read=_read,
    write=_write,
    longest=1_000_000,
    bits=16,
    colours=True,
    keeps=("texts", "gamma"),
)
