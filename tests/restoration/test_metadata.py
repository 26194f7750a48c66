"""Metadata as cameras, scanners, satellites and microscopes write them: kept, rewritten, or named as left out."""

import io
import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from picture_files import DEEP, PACKET, SRGB, camera_block, noise, restore, tiff
from PIL import ExifTags, Image

from vimzoo.pictures import exif
from vimzoo.pictures.inks import is_srgb
from vimzoo.pictures.picture import sound_dpi
from vimzoo.restoration import (
    Picture,
    read_picture,
    write_picture,
)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("suffix", ("jpg", "png", "webp", "tif"))
def test_metadata_survive_and_sizes_are_rewritten(suffix: str, order: str, tmp_path: Path) -> None:
    iptc = b"\x1c\x02\x5a\x00\x07Z\xc3\xbcrich"
    Image.fromarray(noise(3)).save(tmp_path / "a.jpg", exif=camera_block(order), xmp=PACKET)
    data = (tmp_path / "a.jpg").read_bytes()
    resource = (
        b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    )
    segment = b"\xff\xed" + struct.pack(">H", len(resource) + 2) + resource
    (tmp_path / "a.jpg").write_bytes(data[:2] + segment + data[2:])
    picture = read_picture(tmp_path / "a.jpg")
    write_picture(
        picture.enlarged(picture.pixels.repeat(2, 0).repeat(2, 1), None, 2), tmp_path / f"b.{suffix}"
    )
    back = read_picture(tmp_path / f"b.{suffix}")
    block = exif.Block.of(back.exif)
    image, camera = block.places["image"], block.places["exif"]
    upright = suffix == "tif"  # which Pillow turns as it reads
    assert exif.orientation(back.exif) == (1 if upright else 6)
    assert image[315].data == "Zoë Ångström\0".encode() and 513 not in image
    assert block.places["interop"][1].data == b"R03\0" and block.places["gps"][1].data == b"N\0"
    assert camera[37500].data == bytes(range(100)) and block.whole("exif", 34855) == 400
    assert block.whole("exif", 40962) == 28
    assert struct.unpack(block.order + "II", camera[33434].data) == (1, 250)
    assert back.xmp is not None and b"Orientation" not in back.xmp and b"PixelX" not in back.xmp
    assert "<dc:title>Zoë</dc:title>".encode() in back.xmp and b'tiff:Make="Brand"' in back.xmp
    assert back.iptc == (iptc if suffix in ("jpg", "tif") else None)
    assert back.dpi is None


@pytest.mark.parametrize("suffix", ("jpg", "png", "webp", "tif"))
def test_the_printed_size_stays(suffix: str, tmp_path: Path) -> None:
    picture = Picture(noise(3), dpi=(300.0, 150.0))
    write_picture(picture.enlarged(noise(3).repeat(2, 0).repeat(2, 1), None, 2), tmp_path / f"a.{suffix}")
    assert read_picture(tmp_path / f"a.{suffix}").dpi == pytest.approx((600, 300), rel=1e-3)
    write_picture(Picture(noise(3), dpi=(1e6, 1e6)), tmp_path / f"a.{suffix}")
    for value in (4e9, 0.0, float("nan")):
        assert sound_dpi((value, 300.0)) is None


def test_what_a_format_has_no_room_for_is_told(tmp_path: Path, caplog: Any) -> None:
    full = Picture(noise(3), iptc=b"\x1c\2\x5a\0\1Z")
    write_picture(full, tmp_path / "a.jpg")
    assert not restore(tmp_path / "a.jpg", tmp_path / "b.jpg").failed and not caplog.text
    assert not restore(tmp_path / "a.jpg", tmp_path / "b.webp").failed
    assert "a.jpg: WebP has no room for IPTC data" in caplog.text


def test_texts_and_colour_chunks_of_png(tmp_path: Path) -> None:
    """HDR by cICP among them, at 16 bits."""
    cicp, light = bytes((9, 16, 0, 1)), struct.pack(">II", 10_000_000, 4_000_000)
    picture = Picture(
        noise(3, np.uint16),
        texts={"Title": "Zoë", "Comment": "plain"},
        chunks={b"cICP": cicp, b"cLLI": light},
    )
    write_picture(picture, tmp_path / "a.png")
    back = read_picture(tmp_path / "a.png")
    assert dict(back.texts) == {"Title": "Zoë", "Comment": "plain"} and back.cicp == (9, 16, 0, 1)
    assert dict(back.chunks) == {b"cICP": cicp, b"cLLI": light}
    assert np.array_equal(back.pixels, picture.pixels)


def test_geography_is_that_of_the_same_ground(tmp_path: Path) -> None:
    tags = [
        (33550, "d", 3, (10.0, 20.0, 0.0), True), (33922, "d", 6, (0.0, 0.0, 0.0, 5e5, 5.4e6, 0.0), True),
        (34735, "H", 8, (1, 1, 0, 1, 3072, 0, 1, 32632), True), (42113, "s", 0, "7", True),
    ]  # fmt: skip
    path = tiff(tmp_path / "a.tif", DEEP, photometric="rgb", extratags=tags)
    assert not restore(path, tmp_path / "b.tif", 2).failed
    found = tifffile.TiffFile(tmp_path / "b.tif").pages[0].tags
    assert found[33550].value == (5.0, 10.0, 0.0) and found[33922].value == (0.0, 0.0, 0.0, 5e5, 5.4e6, 0.0)
    assert found[34735].value[-1] == 32632 and found[42113].value == "7"
    points = (1, 1, 0, 2, 1025, 0, 1, 2, 3072, 0, 1, 32632)
    matrix = (10.0, 0.0, 0.0, 5e5, 0.0, -20.0, 0.0, 5.4e6, *[0.0] * 4, 0.0, 0.0, 0.0, 1.0)
    tags = [(34264, "d", 16, matrix, True), (34735, "H", 12, points, True)]
    tiff(path, DEEP, photometric="rgb", extratags=tags)
    assert not restore(path, tmp_path / "b.tif", 2, existing="overwrite").failed
    found = tifffile.TiffFile(tmp_path / "b.tif").pages[0].tags[34264].value
    assert found[:8] == (
        5.0,
        0.0,
        0.0,
        5e5 - 2.5,
        0.0,
        -10.0,
        0.0,
        5.4e6 + 5,
    )  # the first centre moves by a quarter


def test_descriptions_with_sizes_are_left_out(tmp_path: Path, caplog: Any) -> None:
    for name, options in (("ome", {"ome": True}), ("imagej", {"imagej": True}), ("shaped", {})):
        tifffile.imwrite(tmp_path / f"{name}.tif", DEEP[..., 0], photometric="minisblack", **options)
        assert not restore(tmp_path / f"{name}.tif", tmp_path / f"{name}2.tif", 2).failed
        assert "ImageDescription" not in tifffile.TiffFile(tmp_path / f"{name}2.tif").pages[0].tags
        assert f"the description ({name})" in caplog.text


def test_a_grey_profile_is_not_lost_to_webp(tmp_path: Path) -> None:
    """Which has only colour: grey is converted by its profile."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, 256)  # linear light
    white = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)
    body = struct.pack(">I", 2)
    for place, (name, data) in enumerate(((b"wtpt", white), (b"kTRC", curve))):
        body += name + struct.pack(">II", 128 + 4 + 24 + place * len(white), len(data))
    body += white + curve
    header = bytearray(SRGB[:128])
    header[:4], header[12:24] = struct.pack(">I", 128 + len(body)), b"mntrGRAYXYZ "
    picture = Picture(np.full((8, 8, 1), 55, np.uint8), bytes(header) + body)
    write_picture(picture, tmp_path / "a.webp", quality=100)
    back = read_picture(tmp_path / "a.webp")
    assert is_srgb(back.profile) and back.profile and np.abs(back.pixels.astype(int) - 128).max() <= 1


def test_what_follows_the_first_picture_is_told(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.WARNING)
    first, second = Image.fromarray(noise(3)), Image.fromarray(noise(3)[:4])
    first.save(tmp_path / "two.jpg", "MPO", save_all=True, append_images=[second])
    gain = b'<rdf:Description xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"/>'
    first.save(tmp_path / "gain.jpg", xmp=gain)
    first.save(tmp_path / "motion.jpg", xmp=b'<rdf:Description GCamera:MotionPhoto="1"/>')
    for name, says in (
        ("two", "1 further pictures"),
        ("gain", "gain map"),
        ("motion", "film of a motion photo"),
    ):
        assert not restore(tmp_path / f"{name}.jpg", tmp_path / f"{name}2.jpg").failed
        assert f"{name}.jpg: " in caplog.text and says in caplog.text
        assert read_picture(tmp_path / f"{name}2.jpg").lost == ()


def test_a_damaged_block_costs_only_its_damaged_entries() -> None:
    block = exif.Block.of(camera_block("<"))
    data = block.tobytes()
    assert data is not None
    for end in range(0, len(data), 7):
        found = exif.Block.of(data[:end])
        for name, entries in found.places.items():
            assert all(entry == block.places[name][tag] for tag, entry in entries.items())
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[rng.integers(len(data), size=5)] = rng.integers(256, size=5)
        exif.described(exif.Block.of(damaged.tobytes()))


def test_pillow_reads_our_blocks(tmp_path: Path) -> None:
    write_picture(Picture(noise(3), exif=camera_block(">")), tmp_path / "a.jpg")
    with Image.open(io.BytesIO((tmp_path / "a.jpg").read_bytes())) as image:
        entries = image.getexif().get_ifd(ExifTags.IFD.Exif)
    assert entries[ExifTags.Base.ISOSpeedRatings] == 400 and entries[ExifTags.Base.ExposureTime] == 0.004
