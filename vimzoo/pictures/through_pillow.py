"""Reads and writes pictures of 8 bits through Pillow."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any

import numpy as np
from PIL import Image

from . import exif, xmp, xmp_extended
from .inks import from_inks
from .numbers import eight_bits
from .picture import NO_PIXELS, Picture, PictureError, check_size, sound_dpi
from .record import Header, Request

__all__ = ["header", "header_reader", "load", "opened", "pixels_of", "read", "reader", "save"]

_MODES = {
    "1": "L", "L": "L", "LA": "LA", "La": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBA": "RGBA",
    "RGBa": "RGBA", "YCbCr": "RGB", "CMYK": "RGB",
}  # fmt: skip
"""Pillow's modes of 8 bits or less -> the mode that they are converted to."""
HEADER = Request(whole=False)
"""What is asked of a file whose header alone is wanted."""
_IPTC = 0x0404
"""Photoshop's number of the resource that holds IPTC's record."""
_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1"
"""How the segment begins that says that a file holds a gain map."""
_rules = threading.Lock()
logging.getLogger(
    "PIL.TiffImagePlugin"
).addFilter(  # many bands are read otherwise, without its error message
    lambda record: "More samples per pixel" not in str(record.msg)
)


def opened(file: IO[bytes], name: str, request: Request = HEADER) -> Image.Image:
    """An image of a known format whose header has been read.

    Unlike ``Image.open`` this has no limit of pixels that is global to the process; see `check_size`.

    Raises:
        PictureError: there is no valid header.
    """
    if name not in Image.OPEN:
        Image.init()
    if name not in Image.OPEN:
        raise PictureError(f"this Pillow cannot read {name}")
    file.seek(0)
    try:
        with _quiet(request):
            return Image.OPEN[name][0](file, "")
    except (SyntaxError, IndexError, TypeError, KeyError) as error:
        raise PictureError(f"damaged header, or of an unusual kind: {error}") from error


def header(file: IO[bytes], name: str) -> Header:
    """Width, height and orientation according to the header."""
    with opened(file, name) as image:
        return (*image.size, exif.header_orientation(image.getexif))


def read(file: IO[bytes], request: Request, name: str) -> Picture:
    """Read a picture of 8 bits: grey or RGB, with alpha if there is transparency."""
    with opened(file, name, request) as image:
        check_size(*image.size, request.max_pixels)
        return load(image, request)


def header_reader(name: str) -> Callable[[IO[bytes]], Header]:
    """`header` of one of Pillow's formats."""
    return partial(header, name=name)


def reader(name: str) -> Callable[[IO[bytes], Request], Picture]:
    """`read` of one of Pillow's formats."""
    return partial(read, name=name)


@contextlib.contextmanager
def _quiet(request: Request) -> Iterator[None]:
    """Pillow without its warnings of damaged EXIF, where all metadata are read.

    The setting is global to the process, so a lock serialises threads; pixels are decoded outside of it.
    """
    if not request.whole:
        yield
        return
    with _rules, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Corrupt EXIF data|Possibly corrupt EXIF")
        yield


def load(image: Image.Image, request: Request, pixels: np.ndarray | None = None) -> Picture:
    """An opened image with its metadata; ``pixels`` if another library has decoded them."""
    with _quiet(request):
        count = 1 if request.pages != "refuse" or image.format == "MPO" else getattr(image, "n_frames", 1)
    if count > 1:
        raise PictureError(f"holds {count} pages or frames; expected one, or --pages first or all")
    profile = image.info.get("icc_profile")
    plain = _plain(image, profile, alpha=False) if pixels is None and not request.whole else None
    if plain is not None:
        pixels = NO_PIXELS
    elif pixels is None:
        pixels, profile = pixels_of(image, profile)
    more = tuple(_frames(image)) if request.pages == "all" and image.format != "MPO" else ()
    if image.format == "PNG":
        image.load()  # some metadata follow the pixels
    with _quiet(request):
        shown = exif.header_orientation(image.getexif)
    if not request.whole:
        turn = exif.with_orientation(None, shown)
        return Picture(np.atleast_3d(pixels), profile, turn, image=plain)
    segments = [body for name, body in getattr(image, "applist", ()) if name == "APP1"]
    packet, whole = xmp_extended.joined(image.info.get("xmp"), segments)
    block = exif.Block.of(_stored_exif(image))
    return Picture(
        np.atleast_3d(pixels),
        profile,
        exif.with_orientation(exif.described(block), shown),
        sound_dpi(_dpi(image) or exif.dpi(block)),
        xmp=xmp.described(packet),
        iptc=_iptc(image),
        more=more,
        lost=(
            *(() if whole else ("the extension of its XMP is damaged and left out",)),
            *_lost(image, packet),
        ),
    )


def _frames(image: Image.Image) -> Iterator[Picture]:
    """The frames after the first one."""
    for place in range(1, getattr(image, "n_frames", 1)):
        image.seek(place)
        yield Picture(np.atleast_3d(pixels_of(image)[0]))


def _dpi(image: Image.Image) -> Any:
    """The resolution that is stated outside EXIF; of JPEG, Pillow's own value is 72 where none is stated."""
    if image.format not in ("JPEG", "MPO"):
        return image.info.get("dpi")
    per_inch = {1: 1.0, 2: 2.54}.get(image.info.get("jfif_unit", 0))
    return per_inch and [per_inch * value for value in image.info["jfif_density"]]


def _stored_exif(image: Image.Image) -> bytes | None:
    block = image.info.get("exif")
    profile = image.info.get("Raw profile type exif")  # a text of PNG: three lines, then hexadecimal
    if block is None and isinstance(profile, str):
        with contextlib.suppress(ValueError):
            block = bytes.fromhex("".join(profile.split("\n")[3:]))
    return block


def _iptc(image: Image.Image) -> bytes | None:
    resources = image.info.get("photoshop")
    found = resources.get(_IPTC) if isinstance(resources, dict) else None
    return found if isinstance(found, bytes) else None


def _lost(image: Image.Image, packet: bytes | str | None) -> Iterator[str]:
    """Warnings of what follows the first picture of a JPEG file, to whose metadata no more can be asked afterwards."""
    if image.format not in ("JPEG", "MPO"):
        return
    gain, further = _maps_gain(image, packet), 0
    for place in range(1, getattr(image, "n_frames", 1)):
        image.info.pop("xmp", None)
        with contextlib.suppress(Exception):  # on damaged files Pillow raises nearly anything
            image.seek(place)
            if _maps_gain(image, image.info.get("xmp")):
                gain = True
                continue
        further += 1
    if gain:
        yield "the gain map is left out; the result has standard dynamic range"
    if further:
        yield f"{further} further pictures, such as a depth map or a second view, are left out"
    if xmp.mentions(packet, b"GCamera:MotionPhoto", b"GCamera:MicroVideo"):
        yield "the film of a motion photo is left out"


def _maps_gain(image: Image.Image, packet: bytes | str | None) -> bool:
    """Whether the metadata of a picture in a file say that it has a gain map or is one."""
    return xmp.mentions(packet, b"hdrgm:", b"HDRGainMap") or any(
        name == "APP2" and body.startswith(_GAIN_MAP) for name, body in getattr(image, "applist", ())
    )


def pixels_of(image: Image.Image, profile: bytes | None = None) -> tuple[np.ndarray, bytes | None]:
    """Pixels of grey or RGB, with alpha if there is transparency, and the profile that applies to them.

    Integers of 16 bits stay as they are.

    Raises:
        PictureError: the pixels have another meaning.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return np.asarray(image).astype(np.uint16), profile
    if image.mode == "F":
        return np.asarray(image), profile
    if image.mode not in _MODES:
        raise PictureError(f"pixels of Pillow's mode {image.mode}; expected grey or colour")
    plain = _plain(image, profile)
    return from_inks(np.asarray(image), profile) if plain is None else (np.asarray(plain), profile)


def _plain(image: Image.Image, profile: bytes | None, alpha: bool = True) -> Image.Image | None:
    """The decoded image in grey or RGB; None if Pillow's own conversion would be wrong or is unknown.

    Args:
        alpha: Add the transparency that a palette or a colour key states.
    """
    if image.mode not in _MODES or (image.mode == "CMYK" and profile):
        return None
    mode = _MODES[image.mode]
    if alpha and image.has_transparency_data and not mode.endswith("A"):
        mode += "A"
    image.load()
    return image if image.mode == mode else image.convert(mode)


def save(file: IO[bytes], name: str, picture: Picture, **options: Any) -> None:
    """Write pixels with 8 bits, colour profile and EXIF block."""
    pixels = eight_bits(picture.pixels)
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
    if name == "WEBP":
        image = image.convert("RGBA" if pixels.shape[2] in (2, 4) else "RGB")
    options = {"icc_profile": picture.profile, "exif": picture.exif} | options
    image.save(file, name, **{key: value for key, value in options.items() if value is not None})
