"""Metadata that a format has little room for, or none: divided, shortened with a warning, or named as left out."""

import logging
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from picture_files import PACKET, camera_block, noise, restore
from PIL import Image

from vimzoo.pictures import exif, xmp_extended
from vimzoo.pictures.formats import WRITTEN, tiff
from vimzoo.pictures.orientation import upright
from vimzoo.pictures.writing import left_out
from vimzoo.restoration import Picture, read_picture, write_picture

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"


def packet(**properties: str) -> bytes:
    """Valid XML with an attribute and these elements, whose namespace is declared outside of their description."""
    inner = "".join(f"<p:{name}>{value}</p:{name}>" for name, value in properties.items())
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}" xmlns:p="http://example.org/p/">'
        f'<rdf:Description rdf:about="" p:Make="Zoë">{inner}</rdf:Description></rdf:RDF></x:xmpmeta>'
    ).encode()


def segments_of(path: Path, start: bytes) -> list[bytes]:
    with Image.open(path) as image:
        return [body for _, body in image.applist if body.startswith(start)]  # type: ignore[attr-defined]


def test_xmp_of_several_segments(tmp_path: Path, caplog: Any) -> None:
    """Adobe's extension: the long properties move, and are found again."""
    long = packet(Short="here", Long="a" * 150_000, Longer="b" * 200_000)
    write_picture(Picture(noise(3), xmp=long), tmp_path / "a.jpg")
    (standard,) = segments_of(tmp_path / "a.jpg", xmp_extended._STANDARD)
    assert b'p:Make="Zo\xc3\xab"' in standard and b"<p:Short>here</p:Short>" in standard
    assert len(segments_of(tmp_path / "a.jpg", xmp_extended._EXTENSION)) == 6
    assert not restore(tmp_path / "a.jpg", tmp_path / "b.jpg").failed and not caplog.text
    for name in "ab":
        found = read_picture(tmp_path / f"{name}.jpg")
        assert found.lost == () and found.xmp is not None and b"HasExtendedXMP" not in found.xmp
        for part in (b"a" * 150_000, b"b" * 200_000, 'p:Make="Zoë"'.encode(), b">here<"):
            assert found.xmp.count(part) == 1
    short = packet(Short="here")
    assert xmp_extended.segments(short, 65_533) == [xmp_extended._STANDARD + short]


def test_a_damaged_extension_of_xmp_is_told(tmp_path: Path, caplog: Any) -> None:
    write_picture(Picture(noise(3), xmp=packet(Long="a" * 100_000)), tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data.replace(b"aaaa", b"aaab", 1))
    assert not restore(tmp_path / "a.jpg", tmp_path / "b.jpg").failed
    assert "a.jpg: the extension of its XMP is damaged" in caplog.text
    found = read_picture(tmp_path / "b.jpg").xmp
    assert found is not None and b"p:Make" in found and len(found) < 1000


@pytest.mark.parametrize(
    ("full", "says"),
    (
        (
            {"xmp": PACKET.replace(b"Brand", b"B" * 70_000)},
            "XMP of 70",
        ),  # undeclared prefixes
        ({"xmp": packet(Zoe="c" * 10).replace(b'about=""', b'about="' + b"d" * 70_000 + b'"')}, "XMP of"),
        ({"exif": "long"}, "the longest entries of 70"),
        ({"iptc": b"\x1c\2\x5a\0\1Z" * 12_000}, "72000 bytes of IPTC data"),
    ),
)
def test_what_is_too_long_for_jpeg_is_told(
    full: dict[str, Any], says: str, tmp_path: Path, caplog: Any
) -> None:
    if full.get("exif") == "long":
        block = exif.Block.of(camera_block("<"))
        block.places["exif"][37500] = exif.Entry(7, bytes(70_000))
        full = {"exif": block.tobytes()}
    picture = Picture(noise(3), **full)
    message = left_out(picture, WRITTEN[".jpg"])
    assert message is not None and message.startswith(f"JPEG has no room for {says}")
    write_picture(picture, tmp_path / "a.jpg")
    back = read_picture(tmp_path / "a.jpg")
    assert back.xmp is None and back.iptc is None
    if "exif" in full:
        assert b"Zo\xc3\xab" in (back.exif or b"")


def test_gamma_and_primaries(tmp_path: Path, caplog: Any) -> None:
    """Of PNG: kept there, and named where they would be lost, unless they say sRGB or a profile says more."""
    srgb = {b"gAMA": struct.pack(">I", 45455)}
    wide = struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
    for chunks, told in (
        ({b"gAMA": struct.pack(">I", 100_000)}, True),
        ({b"cHRM": wide}, True),
        (srgb, False),
        ({**srgb, b"cHRM": wide, b"sRGB": b"\0"}, False),
    ):
        picture = Picture(noise(3), chunks=chunks)
        write_picture(picture, tmp_path / "a.png")
        assert dict(read_picture(tmp_path / "a.png").chunks) == chunks
        for suffix in (".jpg", ".tif", ".webp", ".avif", ".jxl"):
            caplog.clear()
            restore(tmp_path / "a.png", tmp_path / f"b{suffix}", existing="overwrite")
            assert ("gamma and primaries (gAMA, cHRM)" in caplog.text) == told, (chunks, suffix)
        caplog.clear()
        restore(tmp_path / "a.png", tmp_path / "b.png", existing="overwrite")
        assert not caplog.text


@pytest.mark.parametrize("order", "<>")
def test_exif_of_a_big_tiff(order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff, "_LARGEST", 0)
    known = exif.Block.of(camera_block(order))
    picture = Picture(noise(3), exif=exif.described(known), xmp=PACKET, dpi=(300.0, 300.0))
    write_picture(picture, tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff and file.pages[0].tags["ExifTag"].value["ISOSpeedRatings"] == 400
    back = read_picture(tmp_path / "a.tif")
    block = exif.Block.of(back.exif)
    for place in ("exif", "gps", "interop"):
        entries = {tag: entry for tag, entry in known.ordered("<").places[place].items() if tag != 40962}
        assert block.places[place] | entries == block.places[place]
    assert block.whole("exif", 40962) == 14
    assert block.places["image"][315].data == "Zoë Ångström\0".encode()
    assert np.array_equal(back.pixels, upright(picture.pixels, 6))


def test_numbers_of_eight_bytes_become_those_of_four(tmp_path: Path) -> None:
    """Which EXIF blocks in other formats cannot hold."""
    tags = [(65000, "Q", 2, (5, 7), True), (65001, "Q", 1, 2**40, True), (65002, "q", 1, -3, True)]
    tifffile.imwrite(
        tmp_path / "a.tif", noise(3), bigtiff=True, photometric="rgb", metadata=None, extratags=tags
    )
    found = exif.Block.of(read_picture(tmp_path / "a.tif").exif).places["image"]
    assert struct.unpack("<II", found[65000].data) == (5, 7) and found[65000].kind == 4
    assert struct.unpack("<i", found[65002].data) == (-3,) and 65001 not in found


def test_a_gain_map_is_known_by_its_own_packet(tmp_path: Path, caplog: Any) -> None:
    """As cameras write it whose first picture does not mention it, and by ISO 21496-1."""
    caplog.set_level(logging.WARNING)
    first, second = Image.fromarray(noise(3)), Image.fromarray(noise(3)[:4])
    first.save(tmp_path / "iso.jpg", extra=b"\xff\xe2\0\x22urn:iso:std:iso:ts:21496:-1\0\0\0\0\0")
    second.encoderinfo = {"xmp": b'<rdf:Description HDRGainMap:HDRGainMapVersion="65536"/>'}
    for name, others in (("one", [second]), ("three", [second, first.copy()])):
        first.save(tmp_path / f"{name}.jpg", "MPO", save_all=True, append_images=others)
    gain = "the gain map is left out; the result has standard dynamic range"
    further = "1 further pictures, such as a depth map or a second view, are left out"
    assert read_picture(tmp_path / "one.jpg").lost == (gain,)
    assert read_picture(tmp_path / "three.jpg").lost == (gain, further)
    restore(tmp_path / "iso.jpg", tmp_path / "b.jpg")
    assert f"iso.jpg: {gain}" in caplog.text and read_picture(tmp_path / "b.jpg").lost == ()
    assert replace(read_picture(tmp_path / "one.jpg"), lost=()).pixels.shape == (9, 14, 3)
