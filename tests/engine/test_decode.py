"""The reader of pictures: every depth is as bright as it was meant, photographs are upright, wherever they are read."""

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import timm
import torch
from PIL import Image, ImageOps
from torch import nn

from vimzoo import demo, predict
from vimzoo.data import image_folder
from vimzoo.data.images.decode import UnreadablePicture, read_image, size_of
from vimzoo.errors import UsageError

RAMP = np.linspace(0, 1, 64)[None] * np.ones((48, 1))
COLOUR = np.stack([RAMP, RAMP[:, ::-1], RAMP**2], -1)


def levels(picture, top, kind=np.uint16):
    return np.ascontiguousarray(np.rint(picture * top).astype(kind))


def tiff(pixels, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric=options.pop("photometric", "minisblack"), **options)
    return file.getvalue()


def packed(pixels, bits):
    """Rows of whole bytes, the highest bits first."""
    return [
        int("".join(f"{value:0{bits}b}" for value in row), 2).to_bytes(len(row) * bits // 8, "big")
        for row in pixels
    ]


def small_png(bits):
    """Grey of 2 or 4 bits, which no library here writes."""
    rows = packed(levels(RAMP, 2**bits - 1, int).tolist(), bits)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, bits, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def bare_tiff(bits):
    """Grey of 10 or 12 bits, which no library here writes."""
    data = b"".join(packed(levels(RAMP, 2**bits - 1, int).tolist(), bits))
    tags = {
        256: 64,
        257: 48,
        258: bits,
        259: 1,
        262: 1,
        273: 8 + 2 + 12 * 9 + 4,
        277: 1,
        278: 48,
        279: len(data),
    }
    entries = b"".join(
        struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, n) for tag, n in tags.items()
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data


def netpbm(kind, pixels, top):
    return b"%s\n64 48\n%d\n" % (kind, top) + pixels.astype(">u2" if top > 255 else "u1").tobytes()


GREY = {
    "png, 2 bits": small_png(2),
    "png, 4 bits": small_png(4),
    "png": imagecodecs.png_encode(levels(RAMP, 65535)),
    "png with alpha": imagecodecs.png_encode(
        np.stack([levels(RAMP, 65535), np.full((48, 64), 65535, np.uint16)], -1)
    ),
    "tiff": tiff(levels(RAMP, 65535)),
    "tiff, big endian": tiff(levels(RAMP, 65535), byteorder=">"),
    "tiff, compressed": tiff(levels(RAMP, 65535), compression="deflate", predictor=True),
    "tiff, white is zero": tiff(levels(1 - RAMP, 65535), photometric="miniswhite"),
    "tiff, 10 bits": bare_tiff(10),
    "tiff, 12 bits": bare_tiff(12),
    "tiff, signed": tiff(levels(RAMP, 32767, np.int16)),
    "tiff, 32 bits": tiff(levels(RAMP, 2**32 - 1, np.uint32)),
    "tiff, 32 bits, signed": tiff(levels(RAMP, 2**31 - 1, np.int32)),
    "tiff, float16": tiff(RAMP.astype(np.float16)),
    "tiff, float32": tiff(RAMP.astype(np.float32)),
    "tiff, float32, white is zero": tiff((1 - RAMP).astype(np.float32), photometric="miniswhite"),
    "tiff, float64": tiff(RAMP),
    "pgm": netpbm(b"P5", levels(RAMP, 65535), 65535),
    "pgm, 10 bits": netpbm(b"P5", levels(RAMP, 1023), 1023),
    "pfm": b"Pf\n64 48\n-1.0\n" + RAMP[::-1].astype("<f4").tobytes(),
    "jpeg 2000": imagecodecs.jpeg2k_encode(levels(RAMP, 65535), level=0),
    "jpeg 2000, 12 bits": imagecodecs.jpeg2k_encode(levels(RAMP, 4095), level=0, bitspersample=12),
}
COLOURS = {
    "png": imagecodecs.png_encode(levels(COLOUR, 65535)),
    "tiff": tiff(levels(COLOUR, 65535), photometric="rgb"),
    "tiff, planes": tiff(
        levels(np.moveaxis(COLOUR, -1, 0), 65535), photometric="rgb", planarconfig="separate"
    ),
    "tiff, 32 bits": tiff(levels(COLOUR, 2**32 - 1, np.uint32), photometric="rgb"),
    "tiff, float32": tiff(COLOUR.astype(np.float32), photometric="rgb"),
    "ppm, 12 bits": netpbm(b"P6", levels(COLOUR, 4095), 4095),
    "jpeg 2000": imagecodecs.jpeg2k_encode(levels(COLOUR, 65535), level=0),
    "jpeg 2000, 12 bits": imagecodecs.jpeg2k_encode(levels(COLOUR, 4095), level=0, bitspersample=12),
}


@pytest.mark.parametrize("name", GREY)
def test_grey_is_as_bright_as_it_was_meant(name: str) -> None:
    steps = {"png, 2 bits": 3, "png, 4 bits": 15}.get(name, 255)
    expected = np.rint(RAMP * steps) * (255 / steps)
    pixels = np.asarray(read_image(io.BytesIO(GREY[name]), "L"), dtype=float)
    assert np.abs(pixels - expected).max() <= 1
    colour = np.asarray(read_image(io.BytesIO(GREY[name])))
    assert (colour == pixels[..., None]).all() and colour.shape == (48, 64, 3)


@pytest.mark.parametrize("name", COLOURS)
def test_colours_are_as_bright_as_they_were_meant(name: str) -> None:
    pixels = np.asarray(read_image(io.BytesIO(COLOURS[name])), dtype=float)
    assert np.abs(pixels - COLOUR * 255).max() <= 1.01


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiff((RAMP * 812 - 3).astype(np.float32)), r"floating point pixels from -3 to 809; expected 0 to 1"),
        (tiff(np.full((8, 8), np.nan, np.float32)), r"floating point pixels from nan to nan"),
        (tiff(levels(RAMP, 900, np.int16) - 100), r"negative pixels, from -100 to 800; expected 0 to 32767"),
        (tiff(np.zeros((8, 8), np.complex64)), r"complex64; expected grey or colour"),
        (tiff(levels(RAMP, 65535))[:900], r"."),
        (imagecodecs.png_encode(levels(RAMP, 255, np.uint8))[:60], r"."),
        (b"II*\0 no picture at all", r"damaged"),
        (b"nothing", r"cannot identify image file"),
    ],
)
def test_other_pixels_are_refused_by_name(content: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.tif").write_bytes(content)
    for source in (io.BytesIO(content), tmp_path / "file.tif"):
        with pytest.raises((UnreadablePicture, OSError), match=message):
            read_image(source)


def test_large_pictures_are_refused_where_asked() -> None:
    with pytest.raises(UnreadablePicture, match=r"64 x 48 pixels; expected at most 3000"):
        read_image(io.BytesIO(GREY["png"]), max_pixels=3000)


def scene():
    """No symmetry: red above, white at the left of the rest."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :20], pixels[:10] = 255, (250, 0, 0)
    return Image.fromarray(pixels)


STORED = {
    "png": {}, "webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0},
    "tif": {}, "tiff": {"compression": "tiff_deflate"},
}  # fmt: skip


@pytest.mark.parametrize("suffix", STORED)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright(orientation: Any, suffix: Any, tmp_path: Path) -> None:
    exif, path = Image.Exif(), tmp_path / f"photo.{suffix}"
    exif[0x0112] = orientation
    scene().save(path, exif=exif, **STORED[suffix])
    wanted = scene()
    wanted.getexif()[0x0112] = orientation
    wanted = np.asarray(ImageOps.exif_transpose(wanted), dtype=int)
    upright = np.asarray(read_image(path), dtype=int)
    assert upright.shape == wanted.shape and np.abs(upright - wanted).max() < 12
    assert size_of(path) == upright.shape[:2]
    if not suffix.startswith("tif"):  # which Pillow turns by itself
        stored = np.asarray(read_image(path, upright=False), dtype=int)
        assert np.abs(stored - np.asarray(scene(), dtype=int)).max() < 12 and size_of(path, False) == (40, 60)


def test_a_damaged_orientation_is_none(tmp_path: Path) -> None:
    file = io.BytesIO()
    scene().save(file, "PNG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_image(io.BytesIO(file.getvalue())).size == (60, 40)


class Seen(nn.Module):
    """A classifier that remembers what it is given."""

    num_classes = 2

    def __init__(self):
        super().__init__()
        self.pretrained_cfg = {
            **timm.get_pretrained_cfg("test_vit").to_dict(),
            "input_size": (3, 32, 32),
            "label_names": ["a", "b"],
        }
        self.default_cfg = self.pretrained_cfg
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        self.images = images.detach()
        return images.mean((2, 3))[:, :2] * (1 + self.weight)


def test_training_prediction_and_the_page_see_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A phone's photograph, and one of 16 bits, in a folder of classes."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("dark", "tall"):
        (tmp_path / name).mkdir()
    scene().save(tmp_path / "tall/photo.jpg", exif=exif)
    (tmp_path / "dark/deep.png").write_bytes(imagecodecs.png_encode(levels(RAMP, 12000)))
    model = Seen().eval()
    data = image_folder(str(tmp_path), img_size=32, test_fraction=1, pretrained_cfg=model.pretrained_cfg)
    trained = torch.stack([image for image, _ in data.test])
    list(predict.predictions(model, data.test.files()))
    assert torch.equal(model.images, trained)
    monkeypatch.setattr(demo, "classifier", lambda *_: model)
    monkeypatch.setattr("vimzoo.plots.attribution", lambda model, images, _: images.mean(1))
    monkeypatch.setattr(demo, "draw_heat", lambda *_: None)
    monkeypatch.setattr(demo, "draw_paths", lambda *_: None)
    for path, expected in zip(data.test.files(), trained, strict=True):
        demo.classify(str(path), "any")
        assert torch.equal(model.images[0], expected)
    stored = image_folder(
        str(tmp_path), img_size=32, test_fraction=1, upright=False, pretrained_cfg=model.pretrained_cfg
    )
    assert not torch.equal(stored.test[1][0], trained[1])
    list(predict.predictions(model, data.test.files(), upright=False))
    assert torch.equal(model.images, torch.stack([image for image, _ in stored.test]))


def test_shapes_are_those_of_upright_pictures(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        scene().save(tmp_path / name / "photo.jpg", exif=exif)
    data = image_folder(str(tmp_path), img_size=32, sides=[32], step=8, test_fraction=1)
    assert data.test.sizes().tolist() == [[60, 40], [60, 40]]
    assert data.test.shapes[0][0] > data.test.shapes[0][1]


def test_pictures_of_unknown_range_are_counted_with_the_reason(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.tif").write_bytes(tiff((RAMP * 812).astype(np.float32)))
        (tmp_path / name / "1.png").write_bytes(GREY["png"])
    data = image_folder(str(tmp_path), img_size=32, test_fraction=1)
    assert [data.test[index][1] for index in range(4)] == [0, 0, 1, 1]
    with pytest.raises(
        UsageError,
        match=r"2 of 4 .* such as a/0.tif \(floating point pixels from 0 to 812; expected 0 to 1\)",
    ):
        data.unreadable()
