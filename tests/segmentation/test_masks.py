"""Mask files: ids are never read as brightness, and what is wrong in a folder is said before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from vimzoo.data import UsageError, mask_folder
from vimzoo.data.masks.codes import parsed_codes
from vimzoo.data.masks.reading import read_mask
from vimzoo.data.masks.samples import resized_mask

IDS = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], dtype=np.uint8)
COLOURS = np.array([[0, 0, 0], [192, 0, 0], [64, 128, 0], [0, 64, 128]], dtype=np.uint8)
"""The middle ones are equally bright."""


def palette_png(path: Path, bits: int = 8) -> None:
    image = Image.fromarray(IDS, "P")
    image.putpalette(COLOURS.tobytes())
    image.save(path, bits=bits)


def grey_png(path: Path, bits: int) -> None:
    """Pillow writes no grey PNG of 2 or 4 bits."""
    import struct
    import zlib

    rows = b"".join(
        b"\0" + int("".join(f"{value:0{bits}b}" for value in row), 2).to_bytes(len(row) * bits // 8, "big")
        for row in IDS.tolist()
    )
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 4, 2, bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in chunks
        )
    )


def tiff(path: Path, pixels: Any = IDS, **options: Any) -> None:
    tifffile.imwrite(path, pixels, **options)


ONE_BIT = IDS % 2
WRITERS: dict[str, tuple[Any, np.ndarray]] = {
    "palette.png": (palette_png, IDS),
    "palette of 2 bits.png": (lambda path: palette_png(path, 2), IDS),
    "grey.png": (lambda path: Image.fromarray(IDS).save(path), IDS),
    "grey of 2 bits.png": (lambda path: grey_png(path, 2), IDS),
    "grey of 4 bits.png": (lambda path: grey_png(path, 4), IDS),
    "16 bits.png": (lambda path: Image.fromarray(IDS.astype(np.uint16) * 300).save(path), IDS.astype(int) * 300),
    "1 bit.png": (lambda path: Image.fromarray(ONE_BIT * 255).convert("1").save(path), ONE_BIT),
    "three equal channels.png": (lambda path: Image.fromarray(IDS[..., None].repeat(3, 2)).save(path), IDS),
    "alpha.png": (lambda path: Image.fromarray(IDS).convert("LA").save(path), IDS),
    "grey.bmp": (lambda path: Image.fromarray(IDS).save(path), IDS),
    "grey.tif": (tiff, IDS),
    "white is zero.tif": (lambda path: tiff(path, photometric="miniswhite"), IDS),
    "16 bits.tif": (lambda path: tiff(path, IDS.astype(np.uint16) * 300), IDS.astype(int) * 300),
    "int8.tif": (lambda path: tiff(path, IDS.astype(np.int8) - 1), IDS.astype(int) - 1),
    "int32.tif": (lambda path: tiff(path, IDS.astype(np.int32) * 100_000), IDS.astype(int) * 100_000),
    "float.tif": (lambda path: tiff(path, IDS.astype(np.float32)), IDS),
    "palette.tif": (
        lambda path: tiff(path, photometric="palette", colormap=np.tile(np.arange(256, dtype=np.uint16), (3, 1))),
        IDS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_ids_come_back(name: str, tmp_path: Path) -> None:
    write, want = WRITERS[name]
    write(tmp_path / name)
    assert np.array_equal(read_mask(tmp_path / name).pixels, want)


REFUSED: dict[str, tuple[Any, str]] = {
    "a.gif": (lambda path: Image.fromarray(IDS).save(path), "renumber the palette"),
    "pages.tif": (
        lambda path: tiff(path, np.zeros((4, 8, 8), np.uint8), photometric="minisblack"),
        "4 pages",
    ),
    "fractions.tif": (lambda path: tiff(path, IDS + np.float32(0.5)), "fractions such as 0.5"),
    "colours.png": (lambda path: Image.fromarray(COLOURS[IDS]).save(path), "a mask of colours"),
    "transparent.png": (lambda path: Image.new("RGBA", (4, 2)).save(path), "transparency"),
    "damaged.png": (lambda path: path.write_bytes(b"\x89PNG\r\n"), "not a readable mask"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_masks(name: str, tmp_path: Path) -> None:
    write, message = REFUSED[name]
    write(tmp_path / name)
    with pytest.raises(UsageError, match=rf"{name}: .*{message}"):
        read_mask(tmp_path / name)


def test_colours_of_equal_brightness_stay_apart(tmp_path: Path) -> None:
    codes = parsed_codes({0: 0, 1: 1, 2: 2, 3: "ignore"}, COLOURS.tolist(), 255)
    Image.fromarray(COLOURS[IDS]).save(tmp_path / "rgb.png")
    palette_png(tmp_path / "palette.png")
    for name in ("rgb.png", "palette.png"):
        path = tmp_path / name
        ids = codes.ids(read_mask(path, True), path)
        assert np.array_equal(ids, IDS)
        assert np.array_equal(codes.numbers_of(ids, 3, path), np.where(IDS == 3, 255, IDS))
    Image.fromarray(COLOURS[IDS] + np.uint8(1)).save(path)
    with pytest.raises(UsageError, match=r"palette.png: colours #010101, .* in 8 pixels"):
        codes.ids(read_mask(path, True), path)


def test_black_and_white(tmp_path: Path) -> None:
    codes = parsed_codes("binary", None, 255)
    rows, columns = np.ogrid[:64, :64]
    want = (rows - 32) ** 2 + (columns - 30) ** 2 < 400
    for name, high in (("a.png", 255), ("ones.png", 1), ("a.jpg", 255)):
        Image.fromarray((want * high).astype(np.uint8)).save(tmp_path / name)
        assert np.array_equal(codes.ids(read_mask(tmp_path / name), tmp_path / name), want)
    Image.fromarray((want * 7).astype(np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="7; expected 0 and 255, or 0 and 1"):
        codes.ids(read_mask(tmp_path / "a.png"), tmp_path / "a.png")
    with pytest.raises(UsageError, match="JPEG changes class numbers"):
        parsed_codes(None, None, 255).ids(read_mask(tmp_path / "a.jpg"), tmp_path / "a.jpg")


def test_masks_are_resized_by_the_centre() -> None:
    assert resized_mask(np.arange(8)[None], (1, 4)).tolist() == [[1, 3, 5, 7]]
    assert resized_mask(np.arange(4)[None], (1, 8)).tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images of 20 x 30 pixels; class 2 is where they are bright."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for i in range(12):
        mask = np.zeros((20, 30), dtype=np.uint8)
        mask[i : i + 8, 5:15] = 2
        mask[0, 0] = 255
        Image.fromarray(mask // 2 * 200).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}_mask.png")
    return tmp_path


def test_a_folder(folder: Path) -> None:
    data = mask_folder(
        folder, img_size=(16, 24), in_chans=1, aug={"hflip": 0.5, "scale": (0.5, 2), "rotate": 20}
    )
    assert data.classes == ("0", "1", "2") and data.input_size == (1, 16, 24)
    assert data.pixels is not None and data.pixels[1] == 0 and data.pixels[2] == len(data.train) * 80
    assert data.notes == ("no training mask has a pixel of 1 class (1)",)
    for index in range(len(data.train)):
        image, mask = data.train[3, index]
        assert image.shape == (1, 16, 24) and mask.shape == (16, 24) and image.dtype == torch.float32
        assert set(mask.unique().tolist()) <= {0, 2, 255}
        bright = image[0] > image.mean()
        inside = mask != 255
        assert (bright == (mask == 2))[inside].float().mean() > 0.8  # the two are moved together
        again = data.train[3, index]
        assert torch.equal(image, again[0]) and torch.equal(mask, again[1])
    image, mask = data.val[0]
    assert image.shape == (1, 16, 24) and mask.shape == (20, 30)
    whole = mask_folder(folder, img_size=16, in_chans=1, fit="crop")
    assert whole.val[0][0].shape == (1, 20, 30) and whole.train[0, 0][0].shape == (1, 16, 16)


def test_pixels_outside_are_ignored(folder: Path) -> None:
    image, mask = mask_folder(folder, img_size=40, fit="crop", in_chans=1).train[0, 0]
    outside = mask == 255
    assert int(outside.sum()) == 40 * 40 - 20 * 30 + 1  # and the ignored pixel of the file
    assert int((image[0] == 0).sum()) == 40 * 40 - 20 * 30


def test_too_few_images(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "one.png")
    with pytest.raises(UsageError, match=r"`root`=.*: 1 image, too few for .*; expected at least 3"):
        mask_folder(tmp_path)


def test_layouts(folder: Path) -> None:
    want = [len(part) for part in (mask_folder(folder).train, mask_folder(folder).val)]
    assert sum(want) < 12
    for kind in ("images", "masks"):
        for part, numbers in (("training", range(8)), ("validation", range(8, 12))):
            (folder / kind / part).mkdir()
            for i in numbers:
                name = f"{i}.png" if kind == "images" else f"{i}_mask.png"
                (folder / kind / name).rename(folder / kind / part / name)
    data = mask_folder(folder)
    assert (len(data.train), len(data.val), data.test) == (8, 4, None)
    for part in ("training", "validation"):
        (folder / part).mkdir()
        for kind in ("images", "masks"):
            (folder / kind / part).rename(folder / part / kind)
    for kind in ("images", "masks"):
        (folder / kind).rmdir()
    assert len(mask_folder(folder).train) == 8
    (folder / "classes.txt").write_text("back\nnever\nbox\n")
    assert mask_folder(folder).classes == ("back", "never", "box")


def test_what_is_wrong_is_said_before_training(folder: Path) -> None:
    def refused(message: str, **options: Any) -> None:
        with pytest.raises(UsageError, match=message):
            mask_folder(folder, **options)

    refused(r"_mask.png: holds 2; expected 0..1 or 255", classes=["a", "b"])
    refused(r"holds 2; expected the keys of `map`, 0, 1, 255", map={0: 0, 1: 1, 255: "ignore"})
    refused("`ignore_index`=2: expected a number that is no class's", classes=["a", "b", "c"], ignore_index=2)
    refused("`fit`=zoom", fit="zoom")
    refused("`aug`: masks take", aug={"color_jitter": 1})
    refused(r"`map`=7: expected binary", map=7)
    refused(r"`colours`=.*: expected a list", colours=[[0, 0]])
    refused("`img_size`=0", img_size=0)
    Image.new("L", (30, 21)).save(folder / "masks" / "3_mask.png")
    refused(r"3_mask.png: 21 x 30 pixels; expected 20 x 30 as .*3.png")
    (folder / "masks" / "3_mask.png").unlink()
    refused(r"files in .*images without a partner in .*masks \(1\): 3.png")
    (folder / "images" / "3.png").unlink()
    for path in (folder / "masks").iterdir():
        Image.fromarray((np.asarray(Image.open(path)) == 2).astype(np.uint8) * 255).save(path)
    refused("only class 0 and ignored pixels.*`map`=binary")
    with pytest.raises(UsageError, match="127; expected 0 and 255"):
        mask = np.asarray(Image.open(path)).copy()
        mask[:3] = 127
        Image.fromarray(mask).save(path)
        mask_folder(folder, map="binary")
