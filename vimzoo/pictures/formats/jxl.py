"""JPEG XL, through imagecodecs."""

from __future__ import annotations

from typing import IO, Any

import numpy as np

from .. import exif, xmp
from ..boxes import box, boxes
from ..inks import is_srgb
from ..jxl_header import JxlHeader, read_header, with_transfer
from ..numbers import to_16_bits, unmultiplied
from ..picture import Picture, PictureError, check_size, needs, sound_dpi
from ..record import Format, Header, Request

_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_SRGB = 13


def _parts(file: IO[bytes]) -> tuple[bytes, JxlHeader, dict[bytes, bytes]]:
    """The file, its header, and its boxes."""
    file.seek(0)
    data = file.read()
    if not data.startswith(_CONTAINER):
        return data, read_header(data), {}
    found: dict[bytes, bytes] = {}
    stream = b""
    for kind, body in boxes(data):
        if kind in (b"jxlc", b"jxlp"):
            stream = stream or (body if kind == b"jxlc" else body[4:])
        else:
            found.setdefault(kind, body)
    return data, read_header(stream), found


def _read(file: IO[bytes], request: Request) -> Picture:
    data, header, extra = _parts(file)
    check_size(header.width, header.height, request.max_pixels)
    if header.frames and request.pages != "first":
        raise PictureError("holds several frames; expected one, or --pages first")
    if header.cicp is None and header.exact:
        raise PictureError("JPEG XL with an ICC profile; expected a colour space that needs none")
    try:
        import imagecodecs
    except ImportError as error:
        raise needs("imagecodecs to read JPEG XL") from error
    pixels = np.atleast_3d(imagecodecs.jpegxl_decode(data, index=0 if header.frames else None))
    if pixels.shape[2] > 4 or pixels.ndim > 3:
        raise PictureError(f"JPEG XL with pixels of shape {pixels.shape}; expected 1 to 4 channels")
    if pixels.dtype == np.uint16 and header.bits < 16:
        pixels = to_16_bits(pixels, header.bits)
    if header.premultiplied:
        pixels = unmultiplied(pixels)
    block = exif.Block.of(extra.get(b"Exif", b"")[4:])
    gamma = b"" if header.gamma is None else round(header.gamma * 1e5).to_bytes(4, "big")
    known = header.cicp is not None and header.cicp[:2] != (1, _SRGB) and not gamma
    return Picture(
        pixels,
        exif=exif.with_orientation(exif.described(block), 1),  # the decoder turns it
        dpi=sound_dpi(exif.dpi(block)),
        xmp=xmp.described(extra.get(b"xml ")),
        chunks={b"gAMA": gamma} if gamma else {},
        cicp=header.cicp if known else None,
        bits=header.bits,
        lost=("the gain map is left out",) if b"jhgm" in extra else (),
    )


def _header(file: IO[bytes]) -> Header:
    header = _parts(file)[1]
    return header.width, header.height, header.orientation


def _write(file: IO[bytes], picture: Picture, quality: int) -> None:
    try:
        import imagecodecs
    except ImportError as error:
        raise needs("imagecodecs to write JPEG XL") from error
    pixels, lossless = picture.pixels, quality == 100
    if pixels.dtype == np.uint16 and not lossless:
        pixels = _linear(pixels)
    data: Any = imagecodecs.jpegxl_encode(
        np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels),
        lossless=lossless,
        distance=None if lossless else _distance(quality),
        usecontainer=True,
    )
    if pixels.dtype == np.uint16:  # which imagecodecs says to be linear light
        start = data.index(b"jxlc") + 4
        data = data[:start] + with_transfer(data[start:], _SRGB)
    file.write(data)
    block = exif.with_dpi(picture.exif, picture.dpi)
    if block is not None:
        file.write(box(b"Exif", bytes(4) + exif.with_orientation(block, 1)[len(exif.PREFIX) :]))  # type: ignore[index]
    if picture.xmp is not None:
        file.write(box(b"xml ", picture.xmp))


def _refused(picture: Picture) -> str | None:
    if picture.cicp is None and is_srgb(picture.profile):
        return None
    return "JPEG XL is written in sRGB only; choose PNG, TIFF or AVIF for other colours"


def _linear(pixels: np.ndarray) -> np.ndarray:
    """Colours of 16 bits, encoded by sRGB's curve, as linear light; alpha as it is."""
    value = np.linspace(0, 1, 65536)
    curve = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    table = np.rint(curve * 65535).astype(np.uint16)
    colours = 3 if pixels.shape[2] > 2 else 1
    return np.concatenate([table[pixels[..., :colours]], pixels[..., colours:]], -1)


def _distance(quality: int) -> float:
    """libjxl's measure of loss for a quality in the sense of JPEG, as its own command converts them."""
    return 0.1 + (100 - quality) * 0.09 if quality >= 30 else 53 / 3000 * quality**2 - 23 / 20 * quality + 25


FORMAT = Format(
    name="JPEG XL",
    suffixes=(".jxl",),
    starts=lambda head: head[:2] == b"\xff\x0a" or head[:12] == _CONTAINER,
    header=_header,
    read=_read,
    write=_write,
    bits=16,
    refused=_refused,
    package="imagecodecs",
)
