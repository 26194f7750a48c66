"""Decoding of image files for training, evaluation, prediction and the demo page."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile

MODES = {1: "L", 3: "RGB"}  # Pillow's, by channels
DAMAGED = (OSError, ValueError)
"""What `read_image` raises."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BITS, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF
SIGNED, WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, APART = 2, 0, 1, 2, 2  # their values
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition for each EXIF orientation."""


class UnreadablePicture(ValueError):
    """A picture that is damaged, or whose pixels cannot be told to be dark or bright; the message says why."""


def read_image(
    source: Path | str | IO[bytes], mode: str = "RGB", upright: bool = True, max_pixels: float = math.inf
) -> Image.Image:
    """A picture of 8 bits, of several the first.

    Integers of more bits are scaled by the range of their type, floating point numbers from 0..1. Transparency is left
    out.

    Args:
        mode: ``RGB``, or ``L`` for grey.
        upright: turn it as its EXIF orientation says.
        max_pixels: refuse larger ones.

    Raises:
        OSError: it cannot be opened, or is no picture.
        UnreadablePicture: it is damaged, too large, or has pixels of unknown range.
    """
    try:
        with Image.open(source) as image:
            if math.prod(image.size) > max_pixels:
                raise UnreadablePicture(
                    f"{image.width} x {image.height} pixels; expected at most {max_pixels}"
                )
            if _misread(image):
                raise Image.UnidentifiedImageError
            image.load()
            orientation = _orientation(image)
            picture = _of_8_bits(image).convert(mode)
    except Image.UnidentifiedImageError:
        orientation, picture = 1, _read_deep(source).convert(mode)
    except (OSError, MemoryError, UnreadablePicture):
        raise
    except Exception as error:  # on damaged files the decoders raise nearly anything
        raise UnreadablePicture(f"damaged: {type(error).__name__}: {error}") from error
    turn = TURNS.get(orientation) if upright else None
    return picture if turn is None else picture.transpose(turn)


def size_of(source: Path | str | IO[bytes], upright: bool = True) -> tuple[int, int]:
    """Height and width of the picture that `read_image` gives, from the file's header if Pillow can read it.

    Raises:
        OSError, UnreadablePicture: as there.
    """
    try:
        with Image.open(source) as image:
            # Pillow turns the size of a TIFF itself
            turned = upright and image.format != "TIFF" and _header_orientation(image) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except Image.UnidentifiedImageError:
        picture = read_image(source, upright=upright)
        return picture.height, picture.width
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise UnreadablePicture(f"damaged: {type(error).__name__}: {error}") from error


def _orientation(image: Image.Image) -> int:
    """EXIF's, 1 to 8; 1 where it is missing or damaged."""
    return _oriented(image.getexif)


def _header_orientation(image: Image.Image) -> int:
    """As `_orientation`, but the pixels of a PNG file are decoded only if an orientation may follow them."""
    if isinstance(image, PngImageFile) and not _describes_late(image):
        return _oriented(partial(Image.Image.getexif, image))  # PNG's own getexif decodes all pixels first
    return _orientation(image)


def _oriented(exif: Callable[[], Image.Exif]) -> int:
    try:
        value = exif().get(ExifTags.Base.Orientation, 1)
        return value if isinstance(value, int) else 1
    except Exception:
        return 1


def _describes_late(image: PngImageFile) -> bool:
    """Whether a PNG file has, after its pixels, an entry that may hold an orientation; walks over its chunks."""
    file: Any = getattr(image.fp, "raw", image.fp)  # a buffer would read what is skipped
    place = file.tell()
    try:
        file.seek(len(PNG_SIGNATURE))
        pixels_seen = False
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if pixels_seen and kind == b"eXIf":
                return True
            if pixels_seen and kind in (b"tEXt", b"zTXt", b"iTXt"):
                keyword = file.read(min(length, 80)).split(b"\0")[0]
                if keyword in (b"XML:com.adobe.xmp", b"Raw profile type exif"):
                    return True
                length -= min(length, 80)
            pixels_seen = pixels_seen or kind == b"IDAT"
            file.seek(length + 4, 1)  # a chunk's checksum follows it
        return False
    finally:
        file.seek(place)


def _misread(image: Image.Image) -> bool:
    """Whether Pillow would give wrong pixels: of TIFF whose colours stand apart, of more than 8 bits, and of JPEG 2000
    in colour of more than 8 bits, whose white overflows to black.
    """
    if image.format == "TIFF":
        tags: Any = getattr(image, "tag_v2", {})
        return max(tags.get(BITS, (1,))) > 8 and tags.get(PLANAR) == APART and len(image.getbands()) > 1
    return image.format == "JPEG2000" and len(image.getbands()) > 2 and _jpeg2000_bits(image) > 8


def _jpeg2000_bits(image: Image.Image) -> int:
    """Bits of the first component, from the SIZ marker of the code stream."""
    file: Any = image.fp  # type: ignore[attr-defined]
    place = file.tell()
    file.seek(0)
    header = file.read(1 << 20)
    file.seek(place)
    marker = header.find(b"\xff\x4f\xff\x51")
    return (header[marker + 42] & 127) + 1 if 0 <= marker < len(header) - 42 else 8


def _of_8_bits(image: Image.Image) -> Image.Image:
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image  # 8 bits or less, or 16 bits a colour that Pillow has scaled
    tags: Any = getattr(image, "tag_v2", {})
    pixels = np.asarray(image)
    if image.mode == "F":
        top = _float_top(pixels)
    elif tags:
        bits, signed = tags.get(BITS, (16,))[0], tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED
        pixels = pixels.view(np.uint32) if bits == 32 and not signed else pixels
        top = 2 ** (bits - signed) - 1
    elif image.format in ("PNG", "PPM", "JPEG2000", "SGI"):
        top = 2**16 - 1  # Pillow scales fewer bits to these
    else:
        raise UnreadablePicture(f"integers of unknown range in a {image.format} file; expected 8 or 16 bits")
    return Image.fromarray(_scaled(pixels, top, tags.get(PHOTOMETRIC) == WHITE_IS_ZERO))


def _float_top(pixels: np.ndarray) -> float:
    """1, if that is the range of the numbers."""
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):
        raise UnreadablePicture(f"floating point pixels from {low:g} to {high:g}; expected 0 to 1")
    return 1.0


def _scaled(pixels: np.ndarray, top: float, inverted: bool = False) -> np.ndarray:
    """Numbers from 0 to ``top`` as uint8."""
    if pixels.size and pixels.min() < 0:
        raise UnreadablePicture(
            f"negative pixels, from {pixels.min()} to {pixels.max()}; expected 0 to {top}"
        )
    values = np.rint(pixels.astype(np.float64) * (255 / top))
    return (255 - values if inverted else values).clip(0, 255).astype(np.uint8)


def _read_deep(source: Path | str | IO[bytes]) -> Image.Image:
    """A TIFF or JPEG 2000 file that Pillow cannot read, or not rightly, upright.

    Raises:
        UnidentifiedImageError: it is neither. UnreadablePicture: it has pixels of another kind.
    """
    if isinstance(source, Path | str):
        with open(source, "rb") as file:
            return _read_deep(file)
    source.seek(0)
    start = source.read(4)
    source.seek(0)
    tiff, jpeg2000 = start in TIFF_STARTS, start in (b"\xff\x4f\xff\x51", b"\0\0\0\x0c")
    if not tiff and not jpeg2000:
        raise Image.UnidentifiedImageError(
            "cannot identify image file: not a picture, or its header is damaged"
        )
    try:
        return _tiff(source) if tiff else _jpeg2000(source)
    except ImportError as error:
        raise UnreadablePicture(f"needs another library: pip install 'vimzoo[restore]' ({error})") from error
    except (OSError, MemoryError, UnreadablePicture):
        raise
    except Exception as error:
        raise UnreadablePicture(f"damaged, or of another kind: {error}") from error


def _tiff(file: IO[bytes]) -> Image.Image:
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        page: Any = tiff.pages[0]
        if page.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB):
            raise UnreadablePicture(f"TIFF of kind {page.photometric.name}; expected grey or RGB")
        pixels, orientation = page.asarray(), page.tags.get("Orientation")
        pixels = np.moveaxis(pixels, 0, -1) if page.axes.startswith("S") else pixels
        bits, inverted = page.bitspersample, page.photometric == WHITE_IS_ZERO
    picture = _picture(pixels, bits, inverted)
    turn = TURNS.get(orientation.value if orientation else 1)
    return picture if turn is None else picture.transpose(turn)


def _jpeg2000(file: IO[bytes]) -> Image.Image:
    import imagecodecs

    with Image.open(file) as image:
        bits = _jpeg2000_bits(image)
    file.seek(0)
    return _picture(imagecodecs.jpeg2k_decode(file.read()), bits)


def _picture(pixels: np.ndarray, bits: int, inverted: bool = False) -> Image.Image:
    """Grey ``(H, W)`` or colour ``(H, W, 3)``, with or without transparency, of integers of so many bits, or floats."""
    if pixels.ndim == 3:
        pixels = pixels[..., 0] if pixels.shape[2] < 3 else pixels[..., :3]
    if pixels.ndim not in (2, 3) or pixels.dtype.kind not in "uif":
        raise UnreadablePicture(
            f"pixels of shape {pixels.shape} and kind {pixels.dtype}; expected grey or colour"
        )
    top = _float_top(pixels) if pixels.dtype.kind == "f" else 2 ** (bits - (pixels.dtype.kind == "i")) - 1
    return Image.fromarray(_scaled(pixels, top, inverted))
