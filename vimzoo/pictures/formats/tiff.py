"""TIFF: plain ones of 8 bits through Pillow, all others through tifffile."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Any

import numpy as np
from PIL import Image

from .. import exif
from ..inks import from_inks
from ..numbers import to_16_bits, unmultiplied
from ..picture import NO_PIXELS, Picture, PictureError, check_size, needs
from ..record import Format, Header, Request
from ..through_pillow import HEADER, load, opened, pixels_of
from .tiff_tags import append_directories, extra_tags, metadata

_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR, _EXTRA, _KIND = (
    254,
    258,
    259,
    262,
    277,
    284,
    338,
    339,
)
_COLOURS = {"MINISBLACK": 1, "MINISWHITE": 1, "RGB": 3, "YCBCR": 3, "SEPARATED": 4}
"""Channels of colour by photometric interpretation; the others are alpha or further bands."""
_PLAIN = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}
"""The same for what Pillow reads, palettes included, by number."""
_JPEG = (6, 7)  # of Compression
_PILLOWS = (1, 2, 3, 4, 5, *_JPEG, 8, 32773, 32946)
"""Compressions that every build of Pillow can undo: none, fax, LZW, JPEG, Deflate, PackBits."""
_YCBCR = 6  # of PhotometricInterpretation
_ALPHA = (1, 2)  # of ExtraSamples: premultiplied or not
_LARGEST = 2**32 - 2**25
"""Bytes of pixels above which offsets of 4 bytes may not suffice."""
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType


def _plain(file: IO[bytes], request: Request = HEADER) -> Image.Image | None:
    """An opened image if Pillow reads it rightly: at most 8 bits, unsigned, channels interleaved, no further bands."""
    try:
        image = opened(file, "TIFF", request)
    except (PictureError, OSError, ValueError):
        return None
    tags: Any = getattr(image, "tag_v2", {})
    colours, extra = _PLAIN.get(tags.get(_PHOTOMETRIC, -1)), tuple(tags.get(_EXTRA, ()))
    samples = tags.get(_SAMPLES, 1)
    compression = tags.get(_COMPRESSION, 1)
    alpha = len(extra) == 1 and extra[0] in _ALPHA and colours in (1, 3)
    fits = (
        colours is not None
        and samples == colours + alpha == colours + len(extra)
        and max(tags.get(_BITS, (1,))) <= 8
        and set(tags.get(_KIND, (1,))) <= {1, 4}
        and (samples == 1 or tags.get(_PLANAR, 1) == 1)
        and compression in _PILLOWS
        and (tags.get(_PHOTOMETRIC) != _YCBCR or compression in _JPEG)
        and not tags.get(_SUBFILE, 0) & (_REDUCED | _MASK)
    )
    return image if fits else None


def _opened(file: IO[bytes]) -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise needs("tifffile to read TIFF of this kind") from error
    file.seek(0)
    return tifffile.TiffFile(file)


def _read(file: IO[bytes], request: Request) -> Picture:
    image = _plain(file, request)
    if image is not None and not request.whole:
        check_size(*image.size, request.max_pixels)
        return load(image, request)
    with _opened(file) as tiff:
        page = _first(tiff)
        check_size(page.imagewidth, page.imagelength, request.max_pixels)
        count = sum(1 for _ in _pages(tiff)) if request.pages != "first" else 1
        if request.pages == "refuse" and count > 1:
            raise PictureError(f"holds {count} pages; expected one, or --pages first or all")
        if not request.whole:
            return _numbers(page, Picture(NO_PIXELS, **_turn(page)), _decoded(page))
        about = Picture(NO_PIXELS, **metadata(tiff, page))
        if count > 1:
            first, *more = (_numbers(page, about, raw) for raw in _stack(tiff, count))
            rest = tuple(Picture(other.pixels, bands=other.bands) for other in more)
            return replace(first, more=rest)
        if image is None:
            return _numbers(page, about, _decoded(page))
    with opened(file, "TIFF", request) as image:
        pixels, profile = pixels_of(image, image.info.get("icc_profile"))  # Pillow turns it upright
    return replace(
        about, pixels=np.atleast_3d(pixels), profile=profile, exif=exif.with_orientation(about.exif, 1)
    )


def _turn(page: Any) -> dict[str, Any]:
    """The metadata that matter to one who wants to see the pixels."""
    return {
        "profile": page.tags.valueof(34675),
        "exif": exif.with_orientation(None, int(page.tags.valueof(274, 1))),
    }


def _first(tiff: Any) -> Any:
    """The first page that is neither a reduced one, as scanners and cameras put first, nor a mask."""
    return next((page for page in tiff.pages if not page.subfiletype & (_REDUCED | _MASK)), tiff.pages[0])


def _pages(tiff: Any) -> Iterator[Any]:
    """A number for every picture in a file, without reduced ones and masks.

    A directory may stand for a stack: ImageJ writes one for more than 4 GB, and tifffile one with ``truncate``.
    """
    for series in tiff.series:
        page = series.keyframe
        if not page.subfiletype & (_REDUCED | _MASK):
            yield from range(
                math.prod(n for n, axis in zip(series.shape, series.axes, strict=True) if axis not in "YXS")
            )


def _stack(tiff: Any, count: int) -> Iterator[np.ndarray]:
    """The pixels of every page, which have to be alike."""
    whole = (each for each in tiff.series if not each.keyframe.subfiletype & (_REDUCED | _MASK))
    series = next(whole, tiff.series[0])
    page = series.keyframe
    if math.prod(series.shape) != count * math.prod(page.shape):
        raise PictureError(f"holds {count} pages that differ in size or kind; expected equal ones")
    if len(series.pages) < count:  # one directory for all
        yield from series.asarray().reshape(count, *page.shape)
        return
    for other in series.pages:
        yield other.asarray()


def _numbers(page: Any, about: Picture, raw: Any) -> Picture:
    """``about`` with a page's pixels: black 0, colours first and not premultiplied; further bands apart."""
    kind, samples = getattr(page.photometric, "name", str(page.photometric)), page.samplesperpixel
    converted = page.compression in _JPEG  # to RGB, by the decoder
    colours = _COLOURS.get(kind) if converted or kind != "YCBCR" else None
    extra = [int(sample) for sample in page.extrasamples]
    if colours is None or page.dtype is None or page.dtype.kind not in "uif" or samples < colours:
        raise PictureError(
            f"TIFF of kind {kind} with {samples} channels of {page.dtype}; expected grey or colour (RGB, CMYK)"
        )
    pixels = np.asarray(raw)
    if samples > 1 and page.axes.startswith("S"):
        pixels = np.moveaxis(pixels, 0, -1)
    pixels = np.atleast_3d(pixels)
    if pixels.ndim != 3 or pixels.shape[2] != samples:
        raise PictureError(
            f"TIFF with pixels of shape {pixels.shape}; expected height, width and {samples} channels"
        )
    if page.dtype.kind == "u" and 8 < page.bitspersample < 16:
        pixels = to_16_bits(pixels, page.bitspersample)
    extra = (extra + [0] * samples)[: samples - colours]
    alpha = next((colours + place for place, sample in enumerate(extra) if sample in _ALPHA), None)
    others = [place for place in range(colours, samples) if place != alpha]
    if kind == "SEPARATED" and others:
        raise PictureError(
            f"CMYK with {len(others)} spot colours or further bands; expected at most alpha besides"
        )
    bands = np.ascontiguousarray(pixels[..., others]) if others else None
    kept = [*range(colours), *([] if alpha is None else [alpha])]
    picture = pixels if len(kept) == samples else np.ascontiguousarray(pixels[..., kept])
    if kind == "MINISWHITE":
        picture = np.concatenate([_inverted(picture[..., :1]), picture[..., 1:]], -1)
    if alpha is not None and extra[alpha - colours] == 1:
        picture = unmultiplied(picture)
    if kind == "SEPARATED":
        picture, profile = from_inks(picture, about.profile)
        return replace(about, pixels=picture, profile=profile, bands=bands)
    return replace(about, pixels=picture, bands=bands)


def _decoded(page: Any) -> Any:
    try:
        return page.asarray()
    except ValueError as error:
        if "imagecodecs" in str(error):
            raise needs(f"imagecodecs to read TIFF compressed by {page.compression.name}") from error
        raise


def _inverted(pixels: np.ndarray) -> np.ndarray:
    return 1 - pixels if pixels.dtype.kind == "f" else ~pixels


def _header(file: IO[bytes]) -> Header:
    image = _plain(file)
    if image is not None:
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        # Pillow's own size is that of the upright picture
        return int(tags[256]), int(tags[257]), int(tags.get(274, 1))
    with _opened(file) as tiff:
        page = _first(tiff)
        return page.imagewidth, page.imagelength, int(page.tags.valueof(274, 1))


def _write(file: IO[bytes], picture: Picture, quality: int) -> None:
    try:
        import tifffile
    except ImportError as error:
        raise needs("tifffile to write TIFF") from error
    pages = (picture, *picture.more)
    size = sum(array.nbytes for page in pages for array in (page.pixels, page.bands) if array is not None)
    big = size > _LARGEST
    with tifffile.TiffWriter(file, bigtiff=big, byteorder="<") as writer:
        for number, page in enumerate(pages):
            _write_page(writer, page, extra_tags(picture) if number == 0 else [], picture)
    append_directories(file, picture.exif, big)


def _write_page(writer: Any, page: Picture, tags: list[tuple[Any, ...]], about: Picture) -> None:
    pixels, channels = page.pixels, page.pixels.shape[2]
    extra = ["unassalpha"] if channels in (2, 4) else []
    if page.bands is not None:
        extra += ["unspecified"] * page.bands.shape[2]
        pixels = np.concatenate([pixels, page.bands], -1)
    writer.write(
        pixels[..., 0] if pixels.shape[2] == 1 else pixels,
        photometric="rgb" if channels >= 3 else "minisblack",
        planarconfig="contig" if pixels.shape[2] > 1 else None,
        extrasamples=extra or None,
        compression="adobe_deflate",
        predictor=pixels.dtype.kind == "f" or pixels.itemsize <= 4,  # tifffile has none for longer integers
        software=False,
        resolution=about.dpi,
        resolutionunit="INCH" if about.dpi else None,
        iccprofile=about.profile,
        metadata=None,
        extratags=tags,
    )


FORMAT = Format(
    name="TIFF",
    suffixes=(".tif", ".tiff"),
    starts=lambda head: head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    header=_header,
    read=_read,
    write=_write,
    bits=16,
    numbers=True,
    pages=True,
    keeps=("iptc", "geo"),
)
