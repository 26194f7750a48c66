"""Pictures, metadata and a restorer without a model for the tests of picture files."""

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tifffile
import torch
from PIL import ImageCms

from vimzoo.pictures import exif
from vimzoo.restoration import (
    Restorer,
    find_jobs,
    restore_files,
)

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RAMP = np.linspace(0, 1, 32)[None] * np.ones((24, 1))
COLOUR = np.stack([RAMP, RAMP[:, ::-1], RAMP**2], -1)
DEEP = np.rint(COLOUR * 65535).astype(np.uint16)


def noise(channels: int, dtype: Any = np.uint8) -> np.ndarray:
    limits = np.iinfo(dtype)
    return np.random.default_rng(channels).integers(
        limits.min, limits.max, (9, 14, channels), dtype=dtype, endpoint=True
    )


def tiff(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, pixels, **{"metadata": None, "photometric": "minisblack"} | options)
    return path


class Same(Restorer):
    """Restores nothing: what comes out is what a model would have been given, enlarged by repeating pixels."""

    def __init__(self, scale: int = 1) -> None:
        self.model: Any = SimpleNamespace(scale=scale, multiple_of=1, in_chans=3, out_chans=None)
        self.device, self.dtype, self.weight_dtype = torch.device("cpu"), torch.float32, torch.float32
        self.scale, self.tile, self.overlap, self.batch, self._limit = scale, 16, 4, 1, None
        self.model_input: list[np.ndarray] = []

    def _run(self, tiles: Any, places: Any, *, part: int, white: float) -> Any:
        self.model_input.append(tiles.numpy())
        x = tiles.float() / white
        return x.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)


def restore(source: Path, target: Path, scale: int = 1, **options: Any) -> Any:
    return restore_files(find_jobs(source, target), Same(scale), quiet=True, **options)


def camera_block(order: str) -> bytes:
    """A block as cameras write it: text beyond ASCII, Adobe RGB by the Interop entries, a thumbnail, 0/0 dpi."""
    block = exif.Block(order)
    number = block._number
    block.places["image"] = {
        282: exif.Entry(5, bytes(8)), 283: exif.Entry(5, bytes(8)), 296: exif.Entry(3, struct.pack(order + "H", 2)),
        315: exif.Entry(2, "Zoë Ångström\0".encode()), 513: exif.Entry(4, number(500)),
    }  # fmt: skip
    block.places["exif"] = {
        34855: exif.Entry(3, struct.pack(order + "H", 400)), 37500: exif.Entry(7, bytes(range(100))),
        40962: exif.Entry(4, number(14)), 33434: exif.Entry(5, number(1) + number(250)),
    }  # fmt: skip
    block.places["interop"] = {1: exif.Entry(2, b"R03\0")}
    block.places["gps"] = {1: exif.Entry(2, b"N\0"), 2: exif.Entry(5, (number(47) + number(1)) * 3)}
    block.set_whole("image", exif.ORIENTATION, 6)
    data = block.tobytes()
    assert data is not None
    return data


PACKET = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6" tiff:Make="Brand">'
    "<exif:PixelXDimension>14</exif:PixelXDimension><dc:title>Zoë</dc:title></rdf:Description></rdf:RDF></x:xmpmeta>"
).encode()
