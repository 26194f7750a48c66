"""Formats that Pillow cannot handle: 16-bit PNG and TIFF, which it cuts to 8 bits, and compressed TIFF with tags."""

import struct
import zlib
from pathlib import Path
from typing import IO, Any

import imagecodecs
import numpy as np
import tifffile
from PIL import ExifTags, Image
from tifffile import EXTRASAMPLE, PHOTOMETRIC, PLANARCONFIG, TiffFile, TiffPage

from . import exif
from .picture import Picture, PictureError

__all__ = [
    "is_deep_png",
    "is_deep_tiff",
    "read_png",
    "read_tiff",
    "tiff_size",
    "write_png",
    "write_tiff",
]

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TEXTS = (ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Artist, ExifTags.Base.Copyright)
_MANAGED_TEXTS = (ExifTags.Base.ImageDescription, ExifTags.Base.DateTime, ExifTags.Base.Software)
_COLOURS = {PHOTOMETRIC.MINISBLACK: 1, PHOTOMETRIC.MINISWHITE: 1, PHOTOMETRIC.RGB: 3}
_PER_INCH = {2: 1.0, 3: 2.54}  # by TIFF's ResolutionUnit


def is_deep_png(path: Path) -> bool:
    """Whether a file is a PNG of 16 bits per channel."""
    with path.open("rb") as file:
        start = file.read(25)  # signature, then IHDR: size, name, width, height, depth
    return start.startswith(b"\x89PNG") and start[24:] == b"\x10"


def read_png(path: Path) -> np.ndarray:
    """Pixels of a 16-bit PNG, ``(H, W)`` or ``(H, W, 2 to 4)``.

    Raises:
        RuntimeError: it is damaged.
    """
    return imagecodecs.png_decode(path.read_bytes())


def write_png(file: IO[bytes], picture: Picture) -> None:
    """Write uint16 pixels as PNG."""
    pixels = picture.pixels
    plain = np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    data = bytes(imagecodecs.png_encode(plain))
    header = 8 + 25  # signature and IHDR, after which the rest may stand
    file.write(data[:header])
    if picture.profile is not None:
        file.write(_chunk(b"iCCP", b"icc\0\0" + zlib.compress(picture.profile)))
    if picture.dpi is not None:
        file.write(_chunk(b"pHYs", struct.pack(">IIB", *(round(dpi / 0.0254) for dpi in picture.dpi), 1)))
    if picture.exif is not None:
        file.write(_chunk(b"eXIf", picture.exif.removeprefix(b"Exif\0\0")))
    file.write(data[header:])


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def is_deep_tiff(path: Path) -> bool:
    """Whether a file is a TIFF of 16 bits per channel.

    Raises:
        ValueError: it is a TIFF, but damaged.
    """
    with path.open("rb") as file:
        if file.read(4) not in _TIFF_STARTS:
            return False
    with TiffFile(path) as tiff:
        return _page(tiff).bitspersample == 16


def tiff_size(path: Path) -> tuple[int, int]:
    """Width and height of a TIFF."""
    with TiffFile(path) as tiff:
        return _page(tiff).imagewidth, _page(tiff).imagelength


def _page(tiff: TiffFile) -> TiffPage:
    page = tiff.pages[0]
    assert isinstance(page, TiffPage)  # only later ones may be mere frames
    return page


def read_tiff(path: Path) -> Picture:
    """Read a 16-bit TIFF of one page, grey or RGB, with or without alpha.

    Raises:
        ValueError: it is damaged, or of another kind.
    """
    with TiffFile(path) as tiff:
        if len(tiff.pages) > 1:
            raise PictureError("holds several pictures or frames; expected one")
        page = _page(tiff)
        tags = {tag.code: tag.value for tag in page.tags if tag.code not in (34665, 34853)}
        return Picture(_tiff_pixels(page), tags.get(34675), _tiff_exif(tags), _tiff_dpi(tags))


def _tiff_pixels(page: TiffPage) -> np.ndarray:
    """Pixels ``(H, W, channels)`` with black 0 and colours not premultiplied by alpha."""
    colours = _COLOURS.get(PHOTOMETRIC(page.photometric))
    if colours is None or page.samplesperpixel - colours not in (0, 1) or page.dtype != np.uint16:
        kind = f"{PHOTOMETRIC(page.photometric).name} with {page.samplesperpixel} channels of {page.dtype}"
        raise PictureError(f"TIFF of kind {kind}; expected grey or RGB, with or without alpha, of uint16")
    pixels = np.asarray(page.asarray())
    if page.samplesperpixel > 1 and page.planarconfig == PLANARCONFIG.SEPARATE:
        pixels = np.moveaxis(pixels, 0, -1)
    pixels = np.atleast_3d(pixels)
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        pixels = np.concatenate([~pixels[..., :1], pixels[..., 1:]], -1)
    return _unmultiplied(pixels) if EXTRASAMPLE.ASSOCALPHA in page.extrasamples else pixels


def _unmultiplied(pixels: np.ndarray) -> np.ndarray:
    """Undo the premultiplication by alpha."""
    colours, alpha = pixels[..., :-1], pixels[..., -1:].astype(np.float64)
    plain = np.divide(colours * 65535.0, alpha, out=np.zeros(colours.shape), where=alpha > 0)
    return np.concatenate([np.rint(plain.clip(0, 65535)).astype(np.uint16), pixels[..., -1:]], -1)


def _tiff_exif(tags: dict[int, Any]) -> bytes | None:
    block = Image.Exif()
    for tag in (*_TEXTS, *_MANAGED_TEXTS):
        if isinstance(tags.get(tag), str):
            block[tag] = tags[tag]
    orientation = tags.get(ExifTags.Base.Orientation)
    if orientation is not None:
        block[ExifTags.Base.Orientation] = int(orientation)
    return block.tobytes() if len(block) else None


def _tiff_dpi(tags: dict[int, Any]) -> tuple[float, float] | None:
    unit = _PER_INCH.get(int(tags.get(ExifTags.Base.ResolutionUnit, 2)))
    values = tags.get(ExifTags.Base.XResolution), tags.get(ExifTags.Base.YResolution)
    if unit is None or any(value is None or 0 in value for value in values):
        return None
    across, down = (unit * above / below for above, below in values)  # type: ignore[misc]
    return across, down


def write_tiff(file: IO[bytes], picture: Picture) -> None:
    """Write uint8 or uint16 pixels as compressed TIFF, with orientation, resolution, profile and texts."""
    block = exif.loaded(picture.exif)
    tags: list[tuple[Any, ...]] = [(int(tag), 2, 0, str(block[tag]), True) for tag in _TEXTS if tag in block]
    if ExifTags.Base.Orientation in block:
        tags.append((int(ExifTags.Base.Orientation), 3, 1, block[ExifTags.Base.Orientation], True))
    channels = picture.pixels.shape[2]
    tifffile.imwrite(
        file,
        picture.pixels[..., 0] if channels == 1 else picture.pixels,
        photometric="rgb" if channels >= 3 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression="adobe_deflate",
        predictor=True,
        description=block.get(ExifTags.Base.ImageDescription),
        datetime=block.get(ExifTags.Base.DateTime),
        software=block.get(ExifTags.Base.Software, False),
        resolution=picture.dpi,
        resolutionunit="INCH" if picture.dpi else None,
        iccprofile=picture.profile,
        metadata=None,
        extratags=tags,
    )
