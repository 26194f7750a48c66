"""Reads and writes pictures: 8 and 16 bits, colour profile, orientation, resolution; writes atomically.

Pillow handles everything except TIFF output and 16-bit files, which it would reduce to 8 bits; `deep` handles those.
"""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageCms

from vimzoo.errors import first_line
from vimzoo.files import whole_file

from . import deep, exif
from .picture import Picture, PictureError, check_fits, format_of

__all__ = ["MAX_PIXELS", "picture_size", "read_picture", "write_picture"]

MAX_PIXELS = 200_000_000
"""A small file may unpack to any size; pictures with more pixels are rejected by default."""
LONGEST_JPEG_EXIF = 65_533
"""Maximum size of a segment of a JPEG file, in bytes."""
READABLE = ("PNG", "JPEG", "TIFF", "WEBP")
MODES = {
    "1": "L", "L": "L", "LA": "LA", "La": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBA": "RGBA",
    "RGBa": "RGBA", "RGBX": "RGB", "YCbCr": "RGB", "CMYK": "RGB",
}  # fmt: skip
"""Pillow's modes of 8 bits or less -> the mode that they are converted to."""


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height according to a file's header.

    Raises:
        OSError, ValueError: there is no valid header.
    """
    if deep.is_deep_tiff(path):
        return deep.tiff_size(path)
    with _opened(path, None) as image:
        return image.size


def read_picture(path: Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a PNG, JPEG, TIFF or WebP file; the suffix of its name does not matter.

    Palettes become RGB, bilevel pictures grey, CMYK becomes sRGB by its profile. Of a JPEG file with several pictures
    (MPO: with a depth map, or of two views) the first is read.

    Raises:
        OSError: the file cannot be opened.
        PictureError: it is damaged, has another format, unsupported or too many pixels, or holds several pictures.
    """
    try:
        return _read(path, max_pixels)
    except (PictureError, MemoryError):
        raise
    except Exception as error:  # on damaged files the decoders raise nearly anything
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise PictureError(f"damaged: {first_line(error)}") from error


def _read(path: Path, max_pixels: int) -> Picture:
    if deep.is_deep_tiff(path):
        width, height = deep.tiff_size(path)
        if width * height > max_pixels:
            raise _too_many(max_pixels)
        return deep.read_tiff(path)
    with _opened(path, max_pixels) as image:
        with _own_rules():
            several = image.format != "MPO" and getattr(image, "n_frames", 1) > 1
        if several:
            raise PictureError("holds several pictures or frames; expected one")
        profile, dpi = image.info.get("icc_profile"), image.info.get("dpi")
        if deep.is_deep_png(path):
            pixels = deep.read_png(path)
        else:
            plain, profile = _of_known_mode(image, profile)
            pixels = np.asarray(plain)
        with _own_rules():
            block = exif.described(image.getexif())
        return Picture(np.atleast_3d(pixels), profile, block, dpi)


@contextlib.contextmanager
def _opened(path: Path, max_pixels: int | None) -> Iterator[Image.Image]:
    """An image whose header has been read."""
    try:
        with _own_rules():
            image = Image.open(path, formats=READABLE)
    except Image.UnidentifiedImageError as error:
        raise PictureError("not a PNG, JPEG, TIFF or WebP file, or its header is damaged") from error
    with image:
        if max_pixels is not None and image.width * image.height > max_pixels:
            raise _too_many(max_pixels)
        yield image


_rules = threading.Lock()


@contextlib.contextmanager
def _own_rules() -> Iterator[None]:
    """Pillow without its limit of pixels and its warnings of damaged EXIF.

    Both settings are global to the process, so a lock serialises threads; only headers are read here.
    """
    with _rules, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Corrupt EXIF data|Possibly corrupt EXIF")
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _too_many(max_pixels: int | None) -> PictureError:
    return PictureError(
        f"more than {max_pixels} pixels: rejected, because a small file may unpack to any size"
    )


def _of_known_mode(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, bytes | None]:
    """Convert to 8-bit grey or RGB, with alpha if there is transparency; returns the profile that then applies."""
    if image.mode not in MODES:
        raise PictureError(f"pixels of Pillow's mode {image.mode}; expected 8 or 16 bits, grey or colour")
    if image.mode == "CMYK" and profile:
        return _from_inks(image, profile)
    mode = MODES[image.mode]
    if image.has_transparency_data and not mode.endswith("A"):
        mode += "A"
    image.load()
    return (image if image.mode == mode else image.convert(mode)), profile


def _from_inks(image: Image.Image, profile: bytes) -> tuple[Image.Image, bytes]:
    """Convert CMYK to sRGB by its own profile; returns the profile of sRGB."""
    srgb = ImageCms.createProfile("sRGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        raise PictureError(f"CMYK with a colour profile that cannot be applied ({error})") from error
    assert converted is not None  # it works in place only if asked to
    return converted, ImageCms.ImageCmsProfile(srgb).tobytes()


def write_picture(picture: Picture, path: Path, *, quality: int = 95) -> None:
    """Write a picture in the format of the name's suffix; an existing file is replaced atomically.

    PNG and TIFF keep 16 bits; JPEG and WebP have 8. Of an EXIF block, TIFF keeps the orientation and a few texts.

    Args:
        picture: The picture to write.
        path: A name with a suffix of `vimzoo.restoration.pictures.picture.FORMATS`.
        quality: Quality of JPEG and WebP, 1 to 100; WebP with 100 is lossless.

    Raises:
        OSError: the file cannot be written.
        PictureError: the format is not supported or cannot hold the picture.
    """
    form = format_of(path)
    height, width, channels = picture.pixels.shape
    check_fits(form, width, height, channels)
    profile = picture.profile if _profile_fits(picture.profile, channels, form) else None
    block = exif.resized(picture.exif, width, height)
    if form == "JPEG":
        block = exif.shortened(block, LONGEST_JPEG_EXIF)
    picture = Picture(picture.pixels, profile, block, picture.dpi)
    with whole_file(path) as file:
        if form == "TIFF":
            deep.write_tiff(file, picture)
        elif form == "PNG" and picture.pixels.dtype == np.uint16:
            deep.write_png(file, picture)
        else:
            _write_with_pillow(file, form, picture, quality)


def _profile_fits(profile: bytes | None, channels: int, form: str) -> bool:
    """Whether a profile matches the colours of the output; WebP has no grey."""
    grey = channels < 3 and form != "WEBP"
    return profile is not None and profile[16:20] == (b"GRAY" if grey else b"RGB ")


def _write_with_pillow(file: IO[bytes], form: str, picture: Picture, quality: int) -> None:
    pixels = picture.pixels
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)  # nearest: 65535 / 255 = 257
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    options: dict[str, Any] = {"icc_profile": picture.profile, "exif": picture.exif, "dpi": picture.dpi}
    options = {name: value for name, value in options.items() if value is not None}
    if form == "JPEG":
        options.update(quality=quality, subsampling=0)
    elif form == "WEBP":
        image = image.convert("RGBA" if pixels.shape[2] in (2, 4) else "RGB")
        options.update(quality=quality, lossless=quality == 100, exact=True)
    image.save(file, form, **options)
