"""Reads mask files as the numbers or colours that they hold.

Readers of pictures turn the ids of masks into brightness: a 2-bit grey file with ids 0..3 is 0, 85, 170, 255 in Pillow
and OpenCV, a TIFF whose white is 0 is inverted, and palettes become colours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vimzoo.errors import UsageError

__all__ = ["LOSSY", "Mask", "read_mask"]

LOSSY = (".jpg", ".jpeg")
TIFF = (".tif", ".tiff")
_DAMAGED = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


class Mask(NamedTuple):
    """What a mask file holds.

    Attributes:
        pixels: Ids (H, W) int64, or colours (H, W, 3) uint8.
        bits: Of an id in the file; 0 for colours.
    """

    pixels: np.ndarray
    bits: int


def read_mask(path: Path, colours: bool = False) -> Mask:
    """Ids or colours of a mask file.

    Palette files have both; files of three equal channels are read as ids, too.

    Args:
        path: PNG, BMP, TIFF (needs tifffile), JPEG, or what else Pillow reads.
        colours: Whether colours are wanted rather than ids.

    Raises:
        UsageError: the file is no mask of this kind, damaged, or cannot be read reliably; names it.
    """
    try:
        pixels, bits = (_from_tiff if path.suffix.lower() in TIFF else _from_pillow)(path, colours)
    except UsageError:
        raise
    except _DAMAGED as error:
        raise UsageError(f"{path}: not a readable mask ({error})") from error
    if colours:
        return Mask(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None].astype(np.uint8), 3, 2), 0)
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise UsageError(
                f"{path}: a mask of colours; expected class numbers, or `colours` that gives the colour of each class"
            )
        pixels, bits = pixels[..., 0], 8
    return Mask(pixels.astype(np.int64), bits)


def _from_pillow(path: Path, colours: bool) -> tuple[np.ndarray, int]:
    with path.open("rb") as file:
        depth = file.read(26)[24:25]  # of a PNG
        file.seek(0)
        image: Image.Image = Image.open(file)
        image.load()
    if image.format == "GIF" and not colours:
        raise UsageError(f"{path}: programs renumber the palette when they write GIF; expected PNG or TIFF")
    if image.mode in ("LA", "PA", "RGBA"):
        if image.getchannel("A").getextrema() != (255, 255):
            raise UsageError(f"{path}: a mask with transparency; expected none")
        image = image.convert("L" if image.mode == "LA" else "RGB")
    if image.mode == "P":
        return np.asarray(image.convert("RGB") if colours else image), 8
    if image.mode not in ("1", "L", "RGB", "I", "I;16", "I;16B", "I;16L", "F"):
        raise UsageError(f"{path}: a mask of kind {image.mode}; expected grey, a palette or RGB")
    pixels = np.asarray(image)
    if image.mode == "F":
        return _whole(path, pixels), 32
    bits = {"1": 1, "L": 8, "RGB": 0}.get(image.mode, 16)
    if image.format == "PNG" and image.mode == "L" and depth in (b"\2", b"\4"):
        bits = depth[0]
        pixels = pixels // (255 // (2**bits - 1))
    if colours and bits == 16:
        raise UsageError(f"{path}: a mask of 16 bits; `colours` needs RGB or a palette")
    return pixels, bits


def _from_tiff(path: Path, colours: bool) -> tuple[np.ndarray, int]:
    try:
        import tifffile
    except ImportError as error:
        raise UsageError(f"{path}: needs tifffile; pip install 'vimzoo[restore]'") from error
    with tifffile.TiffFile(path) as tiff:
        page: Any = tiff.pages[0]
        pages = sum(int(np.prod(series.shape)) for series in tiff.series) // int(np.prod(page.shape))
        if pages != 1:
            raise UsageError(f"{path}: {pages} pages; expected one page that holds a class number per pixel")
        pixels = page.asarray()
        if page.samplesperpixel > 1 and page.axes.startswith("S"):
            pixels = np.moveaxis(pixels, 0, -1)
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE and colours:
            return (page.colormap.T[pixels] >> 8).astype(np.uint8), 0
    if pixels.ndim != 2 and not (pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8):
        raise UsageError(
            f"{path}: pixels of shape {pixels.shape} and type {pixels.dtype}; expected one class number per pixel, "
            "or RGB of 8 bits"
        )
    if colours and pixels.ndim == 2 and pixels.dtype != np.uint8:
        raise UsageError(f"{path}: grey of type {pixels.dtype}; `colours` needs RGB or a palette of 8 bits")
    return _whole(path, pixels), page.bitspersample if pixels.ndim == 2 else 0


def _whole(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Pixels as whole numbers."""
    if pixels.dtype.kind != "f":
        return pixels
    whole = np.rint(pixels)
    if not np.array_equal(whole, pixels):
        raise UsageError(f"{path}: fractions such as {pixels[whole != pixels][0]}; expected class numbers")
    return whole.astype(np.int64)
