"""What pictures keep, found by writing and reading them, for docs/restoration.md."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import ImageCms

from vimzoo.pictures import exif
from vimzoo.pictures.formats import FORMATS, WRITTEN
from vimzoo.pictures.geo import GeoTag
from vimzoo.pictures.picture import Picture, PictureError
from vimzoo.pictures.reading import read_picture
from vimzoo.pictures.writing import left_out, write_picture

from .markdown import table

PEERS = ("chaiNNer", "Real-ESRGAN", "BasicSR", "OpenCV", "timm")
OTHERS = {
    "16-bit RGB / grey": ("8 by default", "kept", "8", "16", "8 / white"),
    "alpha": ("kept", "kept", "dropped", "kept", "dropped"),
    "EXIF orientation": ("lost", "lost", "applied", "ignored", "ignored"),
    "ICC and EXIF / HDR tags": ("lost", "lost", "lost", "-", "-"),
    "pages": ("first", "first", "first", "first", "first"),
    "5 bands, 8 bits": ("unreadable", "unreadable", "unreadable", "unreadable", "first 3"),
    "separate planes, 16 bits": ("wrong", "wrong", "right", "wrong", "noise"),
    "float32 TIFF": ("8 bits", "black", "unreadable", "read", "unreadable"),
}
"""What became of a picture in other programs, as found with one file of each kind."""
LIBRARIES = (
    ("Pillow", "PNG, JPEG, WebP, GIF, AVIF and others", "8 bits in colour", "yes", "MIT-CMU", "7", "used"),
    ("imagecodecs", "codecs, JPEG XL and AVIF among them", "all", "none", "BSD", "26", "used, with tifffile"),
    ("tifffile", "TIFF", "all", "all tags", "BSD", "0.2", "used"),
    ("OpenEXR", "EXR", "all", "yes", "BSD", "2", "extra `exr`"),
    ("pillow-heif", "HEIC", "all", "yes", "BSD; contains x265 (GPL)", "6", "extra `heic`"),
    ("pyvips-binary", "no JPEG XL, JPEG 2000, EXR", "all", "yes", "LGPL", "8", "no"),
    ("OpenImageIO", "no AVIF, HEIC", "all", "translated, not kept as stored", "Apache", "8", "no"),
    ("pillow-jxl-plugin", "JPEG XL", "8 bits", "yes", "GPL", "3", "no"),
)
"""Library, formats of its wheel, bits, metadata, licence, megabytes of the wheel for Linux, whether vimzoo uses it."""
PROFILE = (
    ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    .tobytes()
    .replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))
)


def _probes() -> Mapping[str, tuple[Picture, Callable[[Picture], bool]]]:
    """What a picture may hold -> such a picture, and whether it is all there in the one that was read back."""
    ramp = np.linspace(0, 65535, 32 * 24 * 3).reshape(24, 32, 3).astype(np.uint16)
    plain = Picture((ramp // 257).astype(np.uint8))
    block = exif.Block()
    block.set_whole("image", exif.ORIENTATION, 3)
    block.places["image"][315] = exif.Entry(2, "Zoë\0".encode())
    block.places["interop"] = {1: exif.Entry(2, b"R03\0")}
    entries = block.tobytes()
    scale = {33550: GeoTag(12, 3, (1.0, 1.0, 0.0))}

    def author(data: bytes | None) -> bool:
        found = exif.Block.of(data)
        return found.places["interop"] == block.places["interop"] and 315 in found.places["image"]

    return {
        "16 bits": (Picture(ramp), lambda back: back.pixels.dtype == np.uint16),
        "alpha": (Picture(plain.pixels.repeat(2, 2)[..., :4]), lambda back: back.pixels.shape[2] == 4),
        "colour profile": (replace(plain, profile=PROFILE), lambda back: back.profile == PROFILE),
        "EXIF": (replace(plain, exif=entries), lambda back: author(back.exif)),
        "XMP": (replace(plain, xmp=b"<x/>"), lambda back: back.xmp == b"<x/>"),
        "IPTC": (replace(plain, iptc=b"\x1c\2\x5a\0\1Z"), lambda back: back.iptc == b"\x1c\2\x5a\0\1Z"),
        "resolution": (replace(plain, dpi=(300.0, 300.0)), lambda back: back.dpi is not None),
        "HDR (cICP)": (Picture(ramp, cicp=(9, 16, 0, 1)), lambda back: (back.cicp or ())[:2] == (9, 16)),
        "further bands": (replace(plain, bands=plain.pixels[..., :2]), lambda back: back.bands is not None),
        "floating point": (Picture(ramp.astype(np.float32)), lambda back: back.pixels.dtype == np.float32),
        "GeoTIFF's tags": (replace(plain, geo=scale), lambda back: dict(back.geo) == scale),
        "pages": (replace(plain, more=(plain,)), lambda back: len(back.more) == 1),
    }


def _fate(picture: Picture, kept: Callable[[Picture], bool], path: Path) -> str:
    try:
        write_picture(picture, path, quality=100)
    except PictureError:
        return "refused"
    if picture.pixels.dtype == np.uint8 and left_out(picture, WRITTEN[path.suffix]):
        return "left out"
    back = read_picture(path, pages="all")
    if picture.pixels.dtype == np.uint16 and kept(back) and back.bits not in (None, 16):
        return f"{back.bits} bits"
    return "kept" if kept(back) else "8 bits" if picture.pixels.dtype == np.uint16 else "lost"


def kept_table() -> str:
    """What each format keeps: rows of properties, columns of formats that are written."""
    forms = [form for form in FORMATS.values() if form.write is not None and form.name != "EXR"]
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            [what, *(_fate(picture, kept, Path(folder) / f"a{form.suffixes[0]}") for form in forms)]
            for what, (picture, kept) in _probes().items()
        ]
    return table(["", *(form.name for form in forms)], rows)


def peers_table() -> str:
    """The same beside other programs, with files as others write them."""
    with tempfile.TemporaryDirectory() as folder:
        own = _own(Path(folder))
    return table(["", "vimzoo", *PEERS], [[what, own[what], *others] for what, others in OTHERS.items()])


def _own(folder: Path) -> dict[str, str]:
    probes, path = _probes(), folder / "a.tif"

    def read(pixels: np.ndarray, **options: Any) -> Picture:
        tifffile.imwrite(path, pixels, **options)
        return read_picture(path)

    def kept(*names: str) -> str:
        fates = {_fate(*probes[name], folder / "a.png") for name in names}
        return fates.pop() if len(fates) == 1 else " / ".join(sorted(fates))

    deep = probes["16 bits"][0].pixels
    bands = np.concatenate([deep, deep[..., :2]], -1).astype(np.uint8)
    apart = read(np.moveaxis(deep, -1, 0), photometric="rgb", planarconfig="separate").pixels
    floats = read(deep.astype(np.float32), photometric="rgb").pixels
    five = read(bands, photometric="rgb", planarconfig="contig").bands
    grey = read(deep[..., 0], photometric="minisblack").pixels
    turned = _fate(*probes["EXIF"], folder / "a.jpg")
    return {
        "16-bit RGB / grey": f"{kept('16 bits')} / {'kept' if grey.dtype == np.uint16 else '8'}",
        "alpha": kept("alpha"),
        "EXIF orientation": turned,
        "ICC and EXIF / HDR tags": f"{kept('colour profile', 'EXIF')} / {kept('HDR (cICP)')}",
        "pages": f"refused, first or {_fate(*probes['pages'], path)}",
        "5 bands, 8 bits": "kept" if five is not None and np.array_equal(five, bands[..., 3:]) else "first 3",
        "separate planes, 16 bits": "right" if np.array_equal(apart, deep) else "wrong",
        "float32 TIFF": "kept" if floats.dtype == np.float32 and np.array_equal(floats, deep) else "changed",
    }


def libraries_table() -> str:
    """The libraries that were compared."""
    return table(["library", "formats", "depth", "metadata", "licence", "MB", "in vimzoo"], LIBRARIES)
