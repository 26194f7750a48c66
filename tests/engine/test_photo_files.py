"""Photographs as files: depths, orientations, sizes from headers, and files that cannot be read."""

import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from pair_files import make_photo
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngImageFile

from vimzoo.data import degraded_folder, paired_folder
from vimzoo.data.images.decode import size_of
from vimzoo.data.pairs.crops import image_size, read_pixels
from vimzoo.errors import UsageError


def test_files_that_are_no_plain_photographs(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not an image")
    with pytest.raises(UsageError, match=r"a.png: not a readable image"):
        read_pixels(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "wide.tif", np.full((4, 5), 700, dtype=np.float32))
    with pytest.raises(UsageError, match=r"wide.tif: .*from 700 to 700; expected 0 to 1"):
        read_pixels(tmp_path / "wide.tif")
    make_photo(tmp_path / "cut.png", 30, 30)
    whole = (tmp_path / "cut.png").read_bytes()
    for length in range(30, len(whole) - 12, 97):
        (tmp_path / "cut.png").write_bytes(whole[:length] + bytes(8))
        with pytest.raises(UsageError, match=r"cut.png: not a readable image"):
            read_pixels(tmp_path / "cut.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no images under"):
        degraded_folder(str(tmp_path / "empty"), sigma=1)


def test_deep_pairs_are_as_bright_as_they_were_meant(tmp_path: Path) -> None:
    """Read as in classification; 20000 of 65535 is 78 of 255."""
    for kind, level in (("low", 20000), ("high", 40000)):
        (tmp_path / kind).mkdir()
        for index in range(4):
            grey = np.full((16, 16), level, dtype=np.uint16)
            colour = np.full((16, 16, 3), level, dtype=np.uint16)
            Image.fromarray(grey).save(tmp_path / kind / f"grey{index}.png")
            (tmp_path / kind / f"colour{index}.png").write_bytes(imagecodecs.png_encode(colour))
            tifffile.imwrite(tmp_path / kind / f"planes{index}.tif", colour, photometric="rgb")
    data = paired_folder(str(tmp_path), crop=16, crops=12, val_fraction=0.3, test_fraction=0.3, split="order")
    for low, high in [data.train[0, index] for index in range(12)]:
        assert low.unique().tolist() == pytest.approx([78 / 255])
        assert high.unique().tolist() == pytest.approx([156 / 255])


def test_turned_photographs_are_read_upright(tmp_path: Path) -> None:
    picture, exif = Image.new("RGB", (40, 20)), Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(tmp_path / "a.jpg", exif=exif)
    picture.save(tmp_path / "a.tif", exif=exif)
    for name in ("a.jpg", "a.tif"):
        assert image_size(tmp_path / name) == read_pixels(tmp_path / name).shape[:2] == (40, 20)


def late_png(path: Path, image: Image.Image, name: bytes, content: bytes) -> None:
    """A PNG file with a chunk after its pixels."""
    image.save(path)
    data = path.read_bytes()
    chunk = len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")
    path.write_bytes(data[:-12] + chunk + data[-12:])


def test_sizes_come_from_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pixel is decoded for them, of PNG neither, unless an orientation stands behind the pixels."""
    image, exif = Image.new("RGB", (8, 5)), Image.Exif()
    exif[0x0112] = 6
    for suffix in ("png", "jpg", "tif", "webp", "bmp"):
        image.save(tmp_path / f"plain.{suffix}")
    for suffix in ("png", "jpg", "webp"):
        image.save(tmp_path / f"turned.{suffix}", exif=exif)
    late_png(tmp_path / "date.png", image, b"tEXt", b"date:create\0today")
    late_png(tmp_path / "late.png", image, b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    assert image_size(tmp_path / "late.png") == (8, 5) == read_pixels(tmp_path / "late.png").shape[:2]

    def no_pixels(*_: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", no_pixels)
    monkeypatch.setattr(PngImageFile, "load", no_pixels)
    for path in sorted(tmp_path.iterdir()):
        if path.name != "late.png":
            assert image_size(path) == ((8, 5) if path.stem == "turned" else (5, 8)), path
            with path.open("rb") as file:  # as the readers of classification give it
                assert size_of(file) == image_size(path), path
