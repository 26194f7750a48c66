"""Files as cameras, scanners, satellites and microscopes write them: nothing is lost or changed without a word."""

import io
import logging
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image, ImageCms

from vimzoo.data.images.decode import read_image
from vimzoo.pictures import exif
from vimzoo.pictures.formats import SUFFIXES, WRITTEN
from vimzoo.pictures.inks import is_srgb
from vimzoo.pictures.picture import sound_dpi
from vimzoo.restoration import (
    Picture,
    PictureError,
    Restorer,
    find_jobs,
    read_picture,
    restore_files,
    write_picture,
)
from vimzoo.restoration.restorer import _few_bits
from vimzoo.restoration.whole import restored

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
        self.model: Any = SimpleNamespace(scale=scale, multiple_of=1, in_chans=3)
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.scale, self.tile, self.overlap, self.batch, self._limit = scale, 16, 4, 1, None
        self.model_input: list[np.ndarray] = []

    def _run(self, tiles: Any, places: Any, *, part: int, white: float) -> Any:
        self.model_input.append(tiles.numpy())
        x = tiles.float() / white
        return x.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)


def restore(source: Path, target: Path, scale: int = 1, **options: Any) -> Any:
    return restore_files(find_jobs(source, target), Same(scale), quiet=True, **options)


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16))
@pytest.mark.parametrize("apart", ("separate", "contig"))
@pytest.mark.parametrize("bands", (2, 4, 5))
def test_bands_are_neither_dropped_nor_alpha(bands: int, apart: str, dtype: Any, tmp_path: Path) -> None:
    pixels = noise(bands, dtype)
    path = tiff(
        tmp_path / "a.tif",
        np.moveaxis(pixels, -1, 0) if apart == "separate" else pixels,
        photometric="minisblack" if bands == 2 else "rgb",
        planarconfig=apart,
        extrasamples=["unspecified"] * (1 if bands == 2 else bands - 3),
    )
    picture = read_picture(path)
    colours = 1 if bands == 2 else 3
    assert np.array_equal(picture.pixels, pixels[..., :colours])
    assert picture.bands is not None and np.array_equal(picture.bands, pixels[..., colours:])
    with pytest.raises(PictureError, match="bands besides"):
        read_image(path)
    (tmp_path / "out").mkdir()
    for choice, scale in (("restore", 1), ("restore", 2), ("copy", 2)):
        target = tmp_path / "out" / f"{choice}{scale}.tif"
        report = restore(path, target, scale, extra_bands=choice)
        assert not report.failed
        back = tifffile.imread(target)
        assert np.array_equal(back, pixels.repeat(scale, 0).repeat(scale, 1))
        kinds = tifffile.TiffFile(target).pages[0].extrasamples
        assert [int(kind) for kind in kinds] == [0] * (bands - colours)
    refused = restore(path, tmp_path / "out" / "b.tif", extra_bands="refuse")
    assert "bands besides grey or colour" in refused.failed[0][1]
    png = restore(path, tmp_path / "out" / "b.png")
    assert "no room for" in png.failed[0][1] and not (tmp_path / "out" / "b.png").exists()
    with pytest.raises(ValueError, match="extra_bands"):
        restore_files([], Same(), extra_bands="drop")


def test_alpha_among_bands_is_found(tmp_path: Path) -> None:
    pixels = noise(5)
    path = tiff(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unspecified", "unassalpha"])
    picture = read_picture(path)
    assert np.array_equal(picture.pixels, pixels[..., [0, 1, 2, 4]])
    assert picture.bands is not None and np.array_equal(picture.bands, pixels[..., 3:4])


@pytest.mark.parametrize(
    "dtype", (np.int8, np.int16, np.int32, np.uint32, np.float16, np.float32, np.float64)
)
def test_other_numbers_come_back(dtype: Any, tmp_path: Path, caplog: Any) -> None:
    """The range is stated; 24 bits of it pass through the model."""
    pixels = (
        (COLOUR * 200 - 100).astype(dtype) if np.dtype(dtype).kind != "u" else (COLOUR * 1e6).astype(dtype)
    )
    path = tiff(tmp_path / "a.tif", pixels, photometric="rgb")
    assert np.array_equal(read_picture(path).pixels, pixels)
    report = restore(path, tmp_path / "b.tif", 2)
    assert not report.failed, report.failed
    back = tifffile.imread(tmp_path / "b.tif")
    span = float(pixels.max()) - float(pixels.min())
    assert back.dtype == dtype
    assert np.abs(back.astype(float) - pixels.repeat(2, 0).repeat(2, 1).astype(float)).max() <= span * 2e-7
    assert f"from {pixels.min():g} to {pixels.max():g}" in caplog.text
    assert "no pixels of" in restore(path, tmp_path / "b.png").failed[0][1]


def test_floating_point_from_0_to_1_is_taken_as_it_is(tmp_path: Path, caplog: Any) -> None:
    pixels = (COLOUR * 0.5).astype(np.float32)
    assert not restore(tiff(tmp_path / "a.tif", pixels, photometric="rgb"), tmp_path / "b.tif").failed
    assert np.abs(tifffile.imread(tmp_path / "b.tif") - pixels).max() < 1e-6 and not caplog.text


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    pixels = np.full((4, 4), np.nan, np.float32)
    assert "NaN" in restore(tiff(tmp_path / "a.tif", pixels), tmp_path / "b.tif").failed[0][1]


@pytest.mark.parametrize("compression", ("jpeg2000", "lerc", "jpegxl", "lzw"))
@pytest.mark.parametrize("dtype", (np.uint8, np.uint16))
def test_compressions(compression: str, dtype: Any, tmp_path: Path) -> None:
    pixels = noise(3, dtype)
    options = (
        {"level": 0} if compression == "jpeg2000" else {"lossless": True} if compression == "jpegxl" else {}
    )
    path = tiff(
        tmp_path / "a.tif", pixels, photometric="rgb", compression=compression, compressionargs=options
    )
    assert np.array_equal(read_picture(path).pixels, pixels)


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16))
@pytest.mark.parametrize("channels", (2, 4))
def test_premultiplied_colours(channels: int, dtype: Any, tmp_path: Path) -> None:
    top = np.iinfo(dtype).max
    pixels = np.full((4, 4, channels), top // 4, dtype)
    pixels[..., -1] = top // 2
    path = tiff(
        tmp_path / "a.tif",
        pixels,
        photometric="rgb" if channels == 4 else "minisblack",
        planarconfig="contig",
        extrasamples=["assocalpha"],
    )
    found = read_picture(path).pixels
    assert np.abs(found[..., :-1].astype(int) - top // 2).max() <= 2 and (found[..., -1] == top // 2).all()


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16))
def test_inks(dtype: Any, tmp_path: Path) -> None:
    """CMYK without a profile is taken as ideal; with spot colours it is refused; a profile that fails is an error."""
    inks = np.zeros((4, 4, 4), dtype)
    inks[..., 0] = np.iinfo(dtype).max
    path = tiff(tmp_path / "a.tif", inks, photometric="separated")
    assert (read_picture(path).pixels[0, 0] == [0, np.iinfo(dtype).max, np.iinfo(dtype).max]).all()
    assert np.asarray(read_image(path))[0, 0].tolist() == [0, 255, 255]
    tiff(path, inks, photometric="separated", iccprofile=SRGB[:16] + b"CMYK" + SRGB[20:])
    for read in (read_picture, read_image):
        with pytest.raises(PictureError, match="CMYK with a colour profile that cannot be applied"):
            read(path)
    spot = np.concatenate([inks, inks[..., :2]], -1)
    tiff(path, spot, photometric="separated", planarconfig="contig", extrasamples=["unspecified"] * 2)
    for read in (read_picture, read_image):
        with pytest.raises(PictureError, match="2 spot colours"):
            read(path)


def grey_inks() -> bytes:
    """A profile of four inks, each of which alone gives a grey of lightness 50, and together black."""
    table = (
        b"mft1"
        + bytes(4)
        + bytes((4, 3, 2, 0))
        + struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    )
    curve = bytes(range(256))
    lightness = [{0: 255, 1: 128}.get(bin(inks).count("1"), 0) for inks in range(16)]
    table += curve * 4 + b"".join(bytes((value, 128, 128)) for value in lightness) + curve * 3
    white = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)
    tags = struct.pack(">I", 2)
    for place, (name, data) in enumerate(((b"wtpt", white), (b"A2B0", table))):
        tags += name + struct.pack(">II", 128 + 4 + 24 + place * len(white), len(data))
    header = bytearray(SRGB[:128])
    body = tags + white + table
    header[:4], header[8:12], header[12:24] = (
        struct.pack(">I", 128 + len(body)),
        b"\x02\x10\0\0",
        b"prtrCMYKLab ",
    )
    return bytes(header) + body


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16))
def test_inks_become_colours_by_their_profile(dtype: Any, tmp_path: Path) -> None:
    top = np.iinfo(dtype).max
    inks = np.zeros((2, 3, 4), dtype)
    inks[0, 0, 0] = inks[0, 1, 3] = inks[0, 2, :2] = top
    path = tiff(tmp_path / "a.tif", inks, photometric="separated", iccprofile=grey_inks())
    picture = read_picture(path)
    expected = np.array([[119, 119, 0], [255, 255, 255]])[..., None]  # sRGB's grey of lightness 50
    assert np.abs(picture.pixels / (top / 255) - expected).max() <= 2 and is_srgb(picture.profile)
    assert np.abs(np.asarray(read_image(path)).astype(float) - expected).max() <= 2


def test_a_stack_in_one_directory_is_not_one_picture(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 8, 9), np.uint8), truncate=True)
    assert len(tifffile.TiffFile(tmp_path / "a.tif").pages) == 1
    with pytest.raises(PictureError, match="holds 5 pages"):
        read_picture(tmp_path / "a.tif")


def test_12_bits_of_jpeg(tmp_path: Path) -> None:
    values = np.rint(COLOUR * 4095).astype(np.uint16)
    (tmp_path / "a.jpg").write_bytes(imagecodecs.jpeg8_encode(values, level=100, bitspersample=12))
    found = read_picture(tmp_path / "a.jpg").pixels
    assert found.dtype == np.uint16 and np.abs(found / 65535 - COLOUR).mean() < 0.005
    assert np.abs(np.asarray(read_image(tmp_path / "a.jpg")) / 255 - COLOUR).mean() < 0.005


def test_portable_maps(tmp_path: Path) -> None:
    (tmp_path / "a.ppm").write_bytes(b"P6\n# a ramp\n32 24\n65535\n" + DEEP.astype(">u2").tobytes())
    assert np.array_equal(read_picture(tmp_path / "a.ppm").pixels, DEEP)
    (tmp_path / "a.pfm").write_bytes(b"PF\n32 24\n-1.0\n" + COLOUR[::-1].astype("<f4").tobytes())
    assert np.array_equal(read_picture(tmp_path / "a.pfm").pixels, COLOUR.astype(np.float32))
    (tmp_path / "a.ppm").write_bytes(b"P6\n32 24\n1023\n" + (DEEP // 64).astype(">u2").tobytes())
    assert np.abs(read_picture(tmp_path / "a.ppm").pixels.astype(int) - DEEP).max() <= 64
    (tmp_path / "a.ppm").write_bytes(b"P6\n32 24\n65535\n" + DEEP.astype(">u2").tobytes()[:-1])
    with pytest.raises(PictureError, match="damaged"):
        read_picture(tmp_path / "a.ppm")


def test_formats_that_are_only_read_become_png(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    image = Image.fromarray(noise(3))
    for suffix in ("bmp", "gif", "png", "jp2", "ppm", "tga"):
        image.save(tmp_path / "in" / f"a.{suffix}")
    report = restore(tmp_path / "in", tmp_path / "out")
    assert not report.failed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.bmp.png", "a.gif.png", "a.jp2.png", "a.png", "a.ppm.png", "a.tga.png",
    ]  # fmt: skip
    assert np.array_equal(read_picture(tmp_path / "out" / "a.bmp.png").pixels, noise(3))
    assert set(WRITTEN) < set(SUFFIXES)


@pytest.mark.parametrize("scale", (1, 2))
@pytest.mark.parametrize("dtype", (np.uint8, np.uint16))
def test_hidden_colours_do_not_reach_the_model(scale: int, dtype: Any, tmp_path: Path) -> None:
    """A white disc whose transparent surroundings are black in the file, as editors leave them."""
    top, rows = np.iinfo(dtype).max, np.arange(100)
    inside = (rows[:, None] - 50) ** 2 + (rows[None, :40] - 20) ** 2 < 15**2
    sprite = np.zeros((100, 40, 4), dtype)
    sprite[inside] = top
    run = Same(scale)
    found = run(sprite)
    assert all((tile == top).all() for tile in run.model_input if tile.shape[1] == 3)
    alpha = inside.repeat(scale, 0).repeat(scale, 1)
    assert (found[..., 3] == alpha * top).all()
    assert (found[alpha][:, :3] == top).all()


class Blurred(Same):
    """A model that turns everything grey."""

    def _run(self, tiles: Any, places: Any, *, part: int, white: float) -> Any:
        return super()._run(tiles, places, part=part, white=white) * 0.5 + 0.25


@pytest.mark.parametrize("scale", (1, 2))
def test_transparent_and_opaque_stay_so(scale: int) -> None:
    pixels = np.zeros((20, 30, 2), np.uint8)
    pixels[:, 10:20, 1], pixels[:, 20:, 1] = 128, 255
    alpha = Blurred(scale)(pixels)[:, ::scale, 1]
    assert (alpha[:, :9] == 0).all() and (alpha[:, 11:19] == 128).all() and (alpha[:, 21:] == 255).all()


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


@pytest.mark.parametrize("form", ("pages", "imagej", "truncate", "gif"))
def test_stacks_come_back_as_stacks(form: str, tmp_path: Path) -> None:
    pages = np.random.default_rng(0).integers(0, 256, (5, 8, 9), dtype=np.uint8)
    path = tmp_path / ("a.gif" if form == "gif" else "a.tif")
    if form == "gif":
        first, *more = (Image.fromarray(page) for page in pages)
        first.save(path, save_all=True, append_images=more)
    else:
        tifffile.imwrite(
            path, pages, photometric="minisblack", imagej=form == "imagej", truncate=form == "truncate"
        )
    assert "holds 5 pages" in restore(path, tmp_path / "b.tif").failed[0][1]
    assert not restore(path, tmp_path / "b.tif", 2, pages="all").failed
    back = tifffile.imread(tmp_path / "b.tif")
    assert np.array_equal(back[..., 0] if back.ndim == 4 else back, pages.repeat(2, 1).repeat(2, 2))
    assert not restore(path, tmp_path / "c.png", pages="first").failed
    assert np.array_equal(read_picture(tmp_path / "c.png").pixels[..., 0], pages[0])
    assert "holds one page, and there are 5" in restore(path, tmp_path / "d.png", pages="all").failed[0][1]
    with pytest.raises(ValueError, match="pages"):
        restore_files([], Same(), pages="some")


def test_pages_that_differ_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for side in (8, 9):
            file.write(np.zeros((side, 8), np.uint8), photometric="minisblack")
    with pytest.raises(PictureError, match="differ in size"):
        read_picture(tmp_path / "a.tif", pages="all")


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


def test_linear_light_reaches_the_model_by_a_perceptual_curve() -> None:
    """And comes back as it was, brighter than white and out of gamut too."""
    light = (COLOUR * 30 - 0.5).astype(np.float32)
    run = Same()
    back = restored(Picture(light, cicp=(1, 8, 0, 1)), run)
    assert np.abs(back.pixels - light).max() < 1e-3 and back.cicp == (1, 8, 0, 1)
    seen = np.concatenate([tile.ravel() for tile in run.model_input])
    assert seen.max() <= 1 and seen.min() < 0
    white = Same()
    restored(Picture(np.ones((4, 4, 3), np.float32), cicp=(1, 8, 0, 1)), white)
    assert white.model_input[0].mean() == pytest.approx(0.5806, abs=1e-3)  # 203 cd/m2 by PQ, BT.2408


def test_missing_values_stay_missing_and_do_not_spread(tmp_path: Path) -> None:
    values = np.full((20, 20), 5.0, np.float32)
    values[:, :10] = np.nan
    run = Same(2)
    back = restored(Picture(values[..., None]), run).pixels[..., 0]
    assert np.isnan(back[:, :20]).all() and (back[:, 20:] == 5).all()
    assert all((tile == tile.flat[0]).all() for tile in run.model_input)
    whole = np.where(np.isnan(values), -9999, 7).astype(np.int16)
    path = tiff(tmp_path / "a.tif", whole, extratags=[(42113, "s", 0, "-9999", True)])
    assert not restore(path, tmp_path / "b.tif", 2).failed
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif"), whole.repeat(2, 0).repeat(2, 1))


def test_half_precision_says_how_many_bits_survive(small: Any, caplog: Any) -> None:
    for dtype, bits in ((torch.bfloat16, 8), (torch.float16, 11)):
        _few_bits.cache_clear()
        run = Restorer(small("dn"), dtype=dtype, tile=16)
        run(np.zeros((16, 16, 1), np.uint8))
        assert not caplog.messages
        run._run = lambda tiles, places, part, white: tiles.float() / white
        run(np.zeros((16, 16, 1), np.uint16))
        assert f"about {bits} bits" in caplog.text
        caplog.clear()


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
