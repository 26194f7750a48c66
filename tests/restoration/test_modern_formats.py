"""AVIF, JPEG XL, HEIC and EXR: bits, alpha, HDR and metadata."""

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_files import COLOUR, DEEP, PACKET, RAMP, SRGB, camera_block, restore

from vimzoo.data.images.decode import read_image
from vimzoo.pictures import exif
from vimzoo.restoration import (
    Picture,
    PictureError,
    read_picture,
    write_picture,
)


@pytest.mark.parametrize("quality", (95, 100))
@pytest.mark.parametrize("dtype", (np.uint8, np.uint16))
@pytest.mark.parametrize("channels", (1, 2, 3, 4))
@pytest.mark.parametrize("suffix", ("avif", "jxl"))
def test_modern_formats(suffix: str, channels: int, dtype: Any, quality: int, tmp_path: Path) -> None:
    """Exact at 100, with all metadata; AVIF has 12 of 16 bits."""
    top = np.iinfo(dtype).max
    ramp = np.concatenate([COLOUR, 1 - RAMP[..., None] / 2], -1)
    pixels = np.rint(ramp[..., {1: [0], 2: [0, 3], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[channels]] * top).astype(
        dtype
    )
    profile = SRGB if channels > 2 else None
    path = tmp_path / f"a.{suffix}"
    written = Picture(pixels, profile, camera_block("<"), (300.0, 300.0), xmp=PACKET)
    write_picture(written, path, quality=quality)
    back = read_picture(path)
    assert back.pixels.dtype == dtype and back.pixels.shape == pixels.shape
    error = np.abs(back.pixels.astype(float) - pixels) / top
    exact = 1 / 8190 if suffix == "avif" and dtype == np.uint16 else 0.0
    assert error.max() <= exact * 1.001 if quality == 100 else error.mean() < 0.01
    assert back.xmp is not None and "Zoë".encode() in back.xmp
    block = exif.Block.of(back.exif)
    assert block.places["interop"][1].data == b"R03\0" and back.dpi == pytest.approx((300, 300))
    assert exif.orientation(back.exif) == (1 if suffix == "jxl" else 6)
    assert back.profile == (profile if suffix == "avif" else None) and back.cicp is None
    other = np.asarray(read_image(path, "L" if channels < 3 else "RGB")).astype(float) / 255
    if suffix == "avif":
        other = np.rot90(other)  # read_image turns it upright
    assert np.abs(other.reshape(24, 32, -1) - ramp[..., : 1 if channels < 3 else 3]).mean() < 0.01


def test_10_bits_and_hdr_of_avif(tmp_path: Path) -> None:
    """Light levels change between the units and orders of PNG and AVIF, and back."""
    display = struct.pack(">8HII", 35400, 14600, 8500, 39850, 6550, 2300, 15635, 16450, 10_000_000, 50)
    light = {b"mDCV": display, b"cLLI": struct.pack(">II", 10_000_000, 4_000_000)}
    picture = Picture(DEEP, cicp=(9, 16, 9, 1), bits=10, chunks=light)
    write_picture(picture, tmp_path / "a.avif", quality=100)
    assert not restore(tmp_path / "a.avif", tmp_path / "b.avif", 2, quality=100).failed
    back = read_picture(tmp_path / "b.avif")
    assert back.bits == 10 and back.cicp is not None and back.cicp[:2] == (9, 16)
    assert np.abs(back.pixels.astype(int) - DEEP.repeat(2, 0).repeat(2, 1)).max() <= 33
    assert not restore(tmp_path / "a.avif", tmp_path / "b.png").failed
    png = read_picture(tmp_path / "b.png")
    assert png.cicp == (9, 16, 0, 1) and {name: png.chunks[name] for name in light} == light
    stored = (tmp_path / "b.avif").read_bytes()
    assert b"clli" + struct.pack(">HH", 1000, 400) in stored
    assert b"mdcv" + struct.pack(">3H", 8500, 39850, 6550) in stored  # green first
    for suffix in ("jpg", "webp", "tif", "jxl"):
        (reason,) = [reason for _, reason in restore(tmp_path / "a.avif", tmp_path / f"c.{suffix}").failed]
        assert "colours" in reason and not (tmp_path / f"c.{suffix}").exists()


@pytest.mark.parametrize(
    ("suffix", "head", "package", "extra"),
    (("heic", b"\0\0\0\x18ftypheic", "pillow_heif", "heic"), ("exr", b"\x76\x2f\x31\x01", "OpenEXR", "exr")),
)
def test_a_missing_package_is_named_with_its_extra(
    suffix: str, head: bytes, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / f"a.{suffix}").write_bytes(head.ljust(64, b"\0"))
    for read in (read_picture, read_image):
        with pytest.raises(PictureError, match=rf"vimzoo\[{extra}\]"):
            read(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("bits", (8, 10))
def test_heic(bits: int, tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="needs the extra vimzoo[heic]")
    top, kind = (255, np.uint8) if bits == 8 else (65535, np.uint16)
    pixels = np.rint(COLOUR.repeat(2, 0).repeat(2, 1) * top).astype(kind)
    mode = "RGB" if bits == 8 else "RGB;16"
    heif.from_bytes(mode=mode, size=(64, 48), data=pixels.tobytes()).save(tmp_path / "a.heic", quality=-1)
    found = read_picture(tmp_path / "a.heic")
    assert found.pixels.dtype == kind and found.bits == bits
    assert np.abs(found.pixels.astype(float) - pixels).max() <= 0.03 * top
    assert np.asarray(read_image(tmp_path / "a.heic")).shape == (48, 64, 3)


@pytest.mark.parametrize("dtype", (np.float16, np.float32))
@pytest.mark.parametrize("channels", (1, 2, 3, 4))
def test_exr(channels: int, dtype: Any, tmp_path: Path) -> None:
    """Linear light brighter than white comes back, and as PNG it is refused."""
    pytest.importorskip("OpenEXR", reason="needs the extra vimzoo[exr]")
    light = np.concatenate([COLOUR * 10, np.full((24, 32, 1), 0.5)], -1).astype(dtype)
    light = light[..., {1: [0], 2: [0, 3], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[channels]]
    write_picture(Picture(light, cicp=(1, 8, 0, 1)), tmp_path / "a.exr")
    assert not restore(tmp_path / "a.exr", tmp_path / "b.exr", 2).failed
    back = read_picture(tmp_path / "b.exr")
    assert back.cicp == (1, 8, 0, 1) and back.pixels.dtype == dtype
    assert np.abs(back.pixels.astype(float) - light.repeat(2, 0).repeat(2, 1)).max() <= 0.01
    assert "no pixels of" in restore(tmp_path / "a.exr", tmp_path / "b.png").failed[0][1]
