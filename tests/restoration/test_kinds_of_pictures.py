"""Pixels of every kind of file: all of them are restored in their own type, or the file is refused."""

import io
import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from picture_files import COLOUR, DEEP, SRGB, Same, noise, restore, tiff
from PIL import Image

from vimzoo.data.images.decode import read_image
from vimzoo.pictures.formats import SUFFIXES, WRITTEN
from vimzoo.pictures.inks import is_srgb
from vimzoo.pictures.numbers import to_16_bits
from vimzoo.pictures.reading import picture_header
from vimzoo.pictures.writing import encoded, left_out
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
    "dtype",
    (np.int8, np.int16, np.int32, np.int64, np.uint32, np.uint64, np.float16, np.float32, np.float64),
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
    assert f"a.tif: pixels of {np.dtype(dtype)} from {pixels.min():g} to {pixels.max():g}" in caplog.text
    assert "no pixels of" in restore(path, tmp_path / "b.png").failed[0][1]


def test_floating_point_from_0_to_1_is_taken_as_it_is(tmp_path: Path, caplog: Any) -> None:
    pixels = (COLOUR * 0.5).astype(np.float32)
    assert not restore(tiff(tmp_path / "a.tif", pixels, photometric="rgb"), tmp_path / "b.tif").failed
    assert np.abs(tifffile.imread(tmp_path / "b.tif") - pixels).max() < 1e-6 and not caplog.text


def test_infinite_numbers_are_refused(tmp_path: Path) -> None:
    pixels = np.full((4, 4), np.inf, np.float32)
    assert "infinite" in restore(tiff(tmp_path / "a.tif", pixels), tmp_path / "b.tif").failed[0][1]


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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_preview_before_the_picture_is_not_the_picture(dtype: Any, tmp_path: Path) -> None:
    """As scanners and cameras write them."""
    pixels = noise(3, dtype)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(pixels[::3, ::3], photometric="rgb", subfiletype=1, metadata=None)
        writer.write(pixels, photometric="rgb", metadata=None)
    assert picture_header(tmp_path / "a.tif")[:2] == (14, 9)
    assert np.array_equal(read_picture(tmp_path / "a.tif").pixels, pixels)
    seen = np.asarray(read_image(tmp_path / "a.tif"))
    assert np.array_equal(seen, pixels if dtype is np.uint8 else (pixels / 257).round().astype(np.uint8))


def test_what_pillow_cannot_undo_is_read_otherwise_or_named(tmp_path: Path, caplog: Any, capfd: Any) -> None:
    path = tiff(tmp_path / "a.tif", noise(3), photometric="rgb", compression="webp")
    assert np.array_equal(read_picture(path).pixels, noise(3))
    assert np.array_equal(np.asarray(read_image(path)), noise(3))
    Image.fromarray(noise(3)).convert("YCbCr").save(path)  # Pillow cannot read its own
    with pytest.raises(PictureError, match="TIFF of kind YCBCR with 3 channels of uint8; expected grey"):
        read_picture(path)
    tiff(path, noise(8, np.uint16), planarconfig="contig", extrasamples=[0] * 7)
    assert read_picture(path).bands is not None
    assert not caplog.text and not capfd.readouterr().err  # of the libraries


def test_an_empty_file_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(PictureError, match="the file is empty"):
        read_picture(tmp_path / "a.jpg")


def test_bits_that_a_format_has_no_room_for_are_told(tmp_path: Path, caplog: Any) -> None:
    values = np.rint(COLOUR * 4095).astype(np.uint16)
    (tmp_path / "a.jpg").write_bytes(imagecodecs.jpeg8_encode(values, level=100, bitspersample=12))
    restore(tmp_path / "a.jpg", tmp_path / "b.jpg")
    assert "JPEG has no room for more than 8 bits" in caplog.text


@pytest.mark.parametrize("bits", (8, 10, 12, 16))
@pytest.mark.parametrize("suffix", (".png", ".tif", ".jxl", ".avif", ".webp", ".jpg"))
def test_every_format_keeps_all_levels_or_tells(suffix: str, bits: int) -> None:
    """JPEG is never lossless."""
    ramp = np.linspace(0, 2**bits - 1, 65536).round().astype(np.uint16).reshape(256, 256, 1)
    picture = Picture(ramp.astype(np.uint8) if bits == 8 else to_16_bits(ramp, bits), bits=bits)
    told = left_out(picture, WRITTEN[suffix])
    back = read_picture(io.BytesIO(encoded(picture, Path("a" + suffix), 100)))
    if suffix != ".jpg":
        assert (len(np.unique(back.pixels)) == 2**bits) == (told is None)
    assert told is None or told.endswith(f" has no room for more than {12 if suffix == '.avif' else 8} bits")
    assert (told is None) == (bits <= WRITTEN[suffix].bits)


@pytest.mark.parametrize("suffix", ("exr", "jxl"))
def test_colours_that_a_format_cannot_state_are_refused_before_any_work(suffix: str, tmp_path: Path) -> None:
    write_picture(Picture(noise(3), profile=bytes(16) + b"RGB " + bytes(200)), tmp_path / "a.png")
    model = Same()
    model.run = lambda asked: pytest.fail("the model ran")
    report = restore_files(find_jobs(tmp_path / "a.png", tmp_path / f"b.{suffix}"), model, quiet=True)
    assert "choose" in report.failed[0][1]


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
    (tmp_path / "in" / "a.pfm").write_bytes(b"Pf\n32 24\n-1.0\n" + COLOUR[..., 0].astype("<f4").tobytes())
    report = restore(tmp_path / "in", tmp_path / "out")
    assert not report.failed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.bmp.png", "a.gif.png", "a.jp2.png", "a.pfm.tif", "a.png", "a.ppm.png", "a.tga.png",
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


DTYPES = (torch.float32, torch.bfloat16)


def test_missing_values_stay_missing_and_do_not_spread(tmp_path: Path) -> None:
    values = np.full((20, 20), 5.0, np.float32)
    values[:, :10] = np.nan
    run = Same(2)
    back = restored(Picture(values[..., None]), run).pixels[..., 0]
    assert np.isnan(back[:, :20]).all() and (back[:, 20:] == 5).all()
    assert all((tile == tile.flat[0]).all() for tile in run.model_input)
    assert np.isnan(restored(Picture(np.full((4, 4, 1), np.nan, np.float32)), run).pixels).all()
    whole = np.where(np.isnan(values), -9999, 7).astype(np.int16)
    path = tiff(tmp_path / "a.tif", whole, extratags=[(42113, "s", 0, "-9999", True)])
    assert not restore(path, tmp_path / "b.tif", 2).failed
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif"), whole.repeat(2, 0).repeat(2, 1))


def test_half_precision_says_how_many_bits_survive(small: Any, caplog: Any) -> None:
    for dtype, bits in ((torch.bfloat16, 8), (torch.float16, 11)):
        for run in (
            Restorer(small("light_x2"), dtype=dtype, tile=16),
            Restorer(small("dn").to(dtype), tile=16),
        ):
            _few_bits.cache_clear()
            side = 16 * run.scale
            run._run = lambda tiles, *_, side=side, **__: torch.zeros(len(tiles), 1, side, side)
            run(np.zeros((16, 16, 1), np.uint8))
            assert not caplog.messages
            run(np.zeros((16, 16, 1), np.uint16))
            assert f"about {bits} bits" in caplog.text
            caplog.clear()


def test_half_precision_keeps_16_bits_where_the_model_adds_its_input(small: Any, caplog: Any) -> None:
    """One step of bfloat16 near white is 256 of 65535; rounding the picture itself would cost half of it."""
    for kind in ("dn", "unet"):
        model = small(kind)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.startswith(("head.conv_out", "output")):
                    parameter.mul_(0.1)
        full, half = (Restorer(model, dtype=dtype)(DEEP).astype(int) for dtype in DTYPES)
        assert np.abs(full - DEEP).max() > 1000 and np.abs(half - full).max() < 128
    assert not caplog.text


def test_linear_light_of_16_bits(caplog: Any) -> None:
    run = Same()
    back = restored(Picture(DEEP, cicp=(1, 8, 0, 1)), run)
    assert back.pixels.dtype == np.uint16 and np.abs(back.pixels.astype(int) - DEEP).max() <= 1
    assert max(tile.max() for tile in run.model_input) == pytest.approx(0.5806, abs=1e-3) and not caplog.text


def test_missing_values_of_all_pages(tmp_path: Path) -> None:
    pages = np.full((2, 8, 9), 7, np.uint8)
    pages[1, :, :4] = 0
    path = tiff(tmp_path / "a.tif", pages, extratags=[(42113, "s", 0, "0", False)])
    run = Same()
    back = restored(read_picture(path, pages="all"), run)
    assert np.array_equal(back.more[0].pixels[..., 0], pages[1])
    assert all((tile == 7).all() for tile in run.model_input)
