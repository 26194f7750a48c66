"""Files: what was written comes back, with profile, orientation and resolution; damage is an error."""

import io
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms, ImageOps

from vimzoo.files import whole_file
from vimzoo.pictures.orientation import upright
from vimzoo.restoration import Picture, PictureError, read_picture, write_picture

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY = SRGB[:16] + b"GRAY" + SRGB[20:]
LOSSLESS = [("png", np.uint8), ("png", np.uint16), ("tif", np.uint8), ("TIFF", np.uint16)]


def noise(channels: int, dtype: type = np.uint8, height: int = 9, width: int = 14) -> np.ndarray:
    rng = np.random.default_rng(channels)
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype=dtype)


def exif_block(orientation: int, **sizes: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "Brand"
    exif[ExifTags.Base.ImageDescription] = "a harbour"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = 400
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] = sizes.get("width", 14)
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    return exif.tobytes()


@pytest.mark.parametrize("channels", (1, 2, 3, 4))
@pytest.mark.parametrize(("suffix", "dtype"), LOSSLESS)
def test_lossless_files_come_back(suffix: str, dtype: type, channels: int, tmp_path: Path) -> None:
    profile = SRGB if channels >= 3 else GREY
    path = tmp_path / f"a.{suffix}"
    write_picture(Picture(noise(channels, dtype), profile, exif_block(1), (300.0, 300.0)), path)
    back = read_picture(path)
    assert back.pixels.dtype == dtype and np.array_equal(back.pixels, noise(channels, dtype))
    assert back.profile == profile
    assert back.dpi == pytest.approx((300, 300), abs=0.1)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("channels", (1, 2, 3, 4))
def test_other_readers_see_16_bits(channels: int, tmp_path: Path) -> None:
    """PNG by its header and by Pillow, exactly where it has 16 bits and to 8 bits elsewhere; TIFF by its tags."""
    pixels = noise(channels, np.uint16)
    write_picture(Picture(pixels), tmp_path / "a.png")
    write_picture(Picture(pixels), tmp_path / "a.tif")
    header = (tmp_path / "a.png").read_bytes()[16:26]
    assert struct.unpack(">IIBB", header) == (14, 9, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels])
    with Image.open(tmp_path / "a.png") as image:
        seen = np.asarray(image)
    if channels == 2:
        seen = seen[..., [0, 3]]
    shown = pixels[..., 0] if channels == 1 else pixels / 257
    assert np.abs(seen - shown).max() < 1
    tags = tifffile.TiffFile(tmp_path / "a.tif").pages[0].tags
    assert tags["SamplesPerPixel"].value == channels
    assert np.atleast_1d(tags["BitsPerSample"].value).tolist() == [16] * channels
    assert tags["PhotometricInterpretation"].value == (2 if channels > 2 else 1)


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16))
@pytest.mark.parametrize("suffix", ("jpg", "png", "tif", "webp", "avif"))
@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_shown_as_before(suffix: str, dtype: type, orientation: int, tmp_path: Path) -> None:
    """A viewer that obeys the orientation shows the written picture as it showed the first one."""
    half = np.iinfo(dtype).max // 8
    pixels = np.full((16, 24, 3), half, dtype)
    pixels[:8, :8] = 7 * half  # the corner tells all eight apart
    pixels[:8, 8:16] = 3 * half
    path = tmp_path / f"a.{suffix}"
    write_picture(Picture(pixels, None, exif_block(orientation)), path)
    write_picture(read_picture(path), tmp_path / f"b.{suffix}")
    want = Image.fromarray((pixels // (257 if dtype == np.uint16 else 1)).astype(np.uint8))
    want.getexif()[ExifTags.Base.Orientation] = orientation
    want = np.asarray(ImageOps.exif_transpose(want), np.int16)
    for name in (path, tmp_path / f"b.{suffix}"):
        with Image.open(name) as image:
            shown = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.int16)
        assert shown.shape == want.shape
        assert np.abs(shown - want).mean() < 3


@pytest.mark.parametrize("suffix", ("jpg", "png", "webp"))
def test_camera_data_survive_and_sizes_are_stated_anew(suffix: str, tmp_path: Path) -> None:
    path, other = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    write_picture(Picture(noise(3), SRGB, exif_block(6)), path)
    read = read_picture(path)
    write_picture(Picture(read.pixels.repeat(2, 0).repeat(2, 1), read.profile, read.exif), other)
    with Image.open(other) as image:
        exif = image.getexif()
        assert image.info["icc_profile"] == SRGB
    camera = exif.get_ifd(ExifTags.IFD.Exif)
    assert exif[ExifTags.Base.Orientation] == 6 and exif[ExifTags.Base.Make] == "Brand"
    assert camera[ExifTags.Base.ISOSpeedRatings] == 400 and camera[ExifTags.Base.ExifImageWidth] == 28
    assert exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"


def test_camera_data_too_long_for_jpeg_lose_their_longest_entries(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "Maker"
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {ExifTags.Base.MakerNote: bytes(40_000), ExifTags.Base.ISOSpeedRatings: 100}
    )
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"ASCII\0\0\0" + b"x" * 30_000
    picture = Picture(noise(3), exif=exif.tobytes())
    for suffix, kept in (("png", True), ("jpg", False)):
        write_picture(picture, tmp_path / f"a.{suffix}")
        found = Image.open(tmp_path / f"a.{suffix}").getexif()
        entries = found.get_ifd(ExifTags.IFD.Exif)
        assert found[ExifTags.Base.Orientation] == 6 and found[ExifTags.Base.Make] == "Maker"
        assert (
            len(entries[ExifTags.Base.UserComment]) == 30_008
            and entries[ExifTags.Base.ISOSpeedRatings] == 100
        )
        assert (ExifTags.Base.MakerNote in entries) == kept
    exif[ExifTags.Base.ImageDescription] = "y" * 70_000
    write_picture(Picture(noise(3), exif=exif.tobytes()), tmp_path / "b.jpg")
    assert Image.open(tmp_path / "b.jpg").getexif()[ExifTags.Base.Orientation] == 6


def test_16_bit_tiff_keeps_what_describes_it(tmp_path: Path) -> None:
    write_picture(Picture(noise(3, np.uint16), SRGB, exif_block(8)), tmp_path / "a.tif")
    write_picture(read_picture(tmp_path / "a.tif"), tmp_path / "b.tif")
    tags = tifffile.TiffFile(tmp_path / "b.tif").pages[0].tags
    assert tags["Orientation"].value == 8 and tags["Make"].value == "Brand"
    assert tags["ImageDescription"].value == "a harbour" and tags["InterColorProfile"].value == SRGB


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_costs_nothing_but_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(3)).save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0garbage")
    read = read_picture(path)
    write_picture(read, tmp_path / "b.jpg")
    assert np.array_equal(read.pixels, np.asarray(Image.open(path)))


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_palettes_bilevel_and_transparent_colours(tmp_path: Path) -> None:
    colours = Image.fromarray(noise(3)).quantize(7)
    assert np.array_equal(
        read_picture(saved(tmp_path / "p.png", colours)).pixels, np.asarray(colours.convert("RGB"))
    )
    through = read_picture(saved(tmp_path / "t.png", colours, transparency=2)).pixels
    assert np.array_equal(through[..., 3] == 0, np.asarray(colours) == 2)
    bilevel = Image.fromarray(noise(1)[..., 0]).convert("1")
    assert np.array_equal(
        read_picture(saved(tmp_path / "b.tif", bilevel)).pixels[..., 0], np.asarray(bilevel) * 255
    )
    key = read_picture(
        saved(tmp_path / "k.png", Image.fromarray(noise(3)), transparency=tuple(noise(3)[2, 3].tolist()))
    )
    assert key.pixels[2, 3, 3] == 0 and (key.pixels[..., 3] == 255).sum() == 9 * 14 - 1


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    inks = Image.new("CMYK", (5, 4), (255, 0, 0, 0))
    assert read_picture(saved(tmp_path / "c.jpg", inks)).pixels.mean((0, 1)) == pytest.approx(
        (0, 255, 255), abs=3
    )
    with pytest.raises(PictureError, match="CMYK"):  # rather than colours by guess
        read_picture(saved(tmp_path / "c.tif", inks, icc_profile=SRGB[:16] + b"CMYK" + SRGB[20:]))


@pytest.mark.parametrize("form", ("png", "tif"))
def test_16_bit_files_of_others(form: str, tmp_path: Path) -> None:
    pixels = noise(4, np.uint16)
    path = tmp_path / f"a.{form}"
    if form == "png":
        path.write_bytes(imagecodecs.png_encode(pixels))
        assert np.array_equal(read_picture(path).pixels, pixels)
        return
    tifffile.imwrite(path, np.moveaxis(pixels[..., :3], -1, 0), photometric="rgb", planarconfig="separate")
    assert np.array_equal(read_picture(path).pixels, pixels[..., :3])
    tifffile.imwrite(path, pixels[..., :3], photometric="rgb", byteorder=">", tile=(16, 16))
    assert (
        np.array_equal(read_picture(path).pixels, pixels[..., :3])
        and read_picture(path).pixels.dtype.isnative
    )
    tifffile.imwrite(path, pixels[..., 0], photometric="miniswhite", compression="lzw")
    assert np.array_equal(read_picture(path).pixels[..., 0], 65535 - pixels[..., 0])
    pixels[..., 3] = 32768
    tifffile.imwrite(path, pixels // 2, photometric="rgb", extrasamples=["assocalpha"])
    colour = read_picture(path).pixels[..., :3].astype(int)
    assert np.abs(colour - (pixels[..., :3] // 2 * (65535 / 16384)).clip(0, 65535)).max() <= 1


def strange_files(folder: Path) -> dict[str, Path]:
    frames = [Image.fromarray(noise(3, height=8 + i)) for i in range(2)]
    tifffile.imwrite(folder / "complex.tif", np.zeros((4, 4), np.complex64))
    tifffile.imwrite(folder / "deep_pages.tif", np.zeros((3, 4, 4), np.uint16), photometric="minisblack")
    saved(folder / "pages.tif", frames[0], save_all=True, append_images=frames[1:])
    saved(folder / "moving.webp", frames[0], save_all=True, append_images=[frames[0].transpose(0)])
    saved(folder / "whole.png", Image.fromarray(noise(3, height=99)))
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:-700])
    saved(folder / "whole.jpg", Image.fromarray(noise(3, height=199)))
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:-2000])
    (folder / "cut16.png").write_bytes(imagecodecs.png_encode(noise(3, np.uint16))[:-300])
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.jpg").write_bytes(b"")
    return {path.name: path for path in folder.iterdir() if not path.name.startswith("whole")}


@pytest.mark.parametrize(
    "name",
    (
        "complex.tif", "deep_pages.tif", "pages.tif", "moving.webp", "cut.png", "cut.jpg", "cut16.png", "text.png",
        "empty.jpg",
    ),
)  # fmt: skip
def test_what_cannot_be_read_raises(name: str, tmp_path: Path) -> None:
    with pytest.raises((PictureError, OSError, ValueError, RuntimeError)) as caught:
        read_picture(strange_files(tmp_path)[name])
    assert str(caught.value)


def test_a_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    bomb = io.BytesIO()
    Image.new("1", (30_000, 20_000)).save(bomb, "PNG")
    path.write_bytes(bomb.getvalue())
    assert path.stat().st_size < 200_000
    with pytest.raises(PictureError, match="30000 x 20000 pixels; expected at most 200000000"):
        read_picture(path)
    small = saved(tmp_path / "small.png", Image.new("L", (40, 30)))
    with pytest.raises(PictureError, match="expected at most 1199"):
        read_picture(small, max_pixels=1199)
    limit = Image.MAX_IMAGE_PIXELS
    assert read_picture(small, max_pixels=1200).pixels.shape == (30, 40, 1)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_phone_picture_of_several_is_its_first(tmp_path: Path) -> None:
    first, second = (Image.fromarray(noise(3, height=16 + 8 * i)) for i in range(2))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert read_picture(tmp_path / "a.jpg").pixels.shape == (16, 14, 3)


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    (
        ("a.jpg", (4, 4, 4), "no alpha"),
        ("a.jpg", (1, 65_501, 1), "ends at 65500; choose PNG or TIFF"),
        ("a.webp", (16_384, 1, 3), "ends at 16383; choose PNG or TIFF"),
        ("a.png", (1, 1_000_001, 1), "ends at 1000000; choose TIFF"),
        ("a.bmp", (4, 4, 3), "expected a name ending"),
    ),
)
def test_what_a_format_cannot_hold_is_refused(name: str, shape: tuple, says: str, tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=says):
        write_picture(Picture(np.zeros(shape, np.uint8)), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16))
@pytest.mark.parametrize(("name", "side"), (("a.jpg", 65_500), ("a.webp", 16_383), ("a.png", 1_000_000)))
def test_the_longest_sides_are_written(name: str, side: int, dtype: type, tmp_path: Path) -> None:
    for shape in ((1, side, 1), (side, 1, 1)):
        write_picture(Picture(np.full(shape, 7, dtype)), tmp_path / name)
        assert read_picture(tmp_path / name).pixels.shape[:2] == shape[:2]


def test_16_bits_become_the_nearest_8(tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(3, -1)
    write_picture(Picture(values), tmp_path / "a.webp", quality=100)
    assert np.array_equal(read_picture(tmp_path / "a.webp").pixels, np.rint(values / 257))


def test_quality(tmp_path: Path) -> None:
    sizes = []
    for quality in (20, 95):
        write_picture(Picture(noise(3, height=99)), tmp_path / "a.jpg", quality=quality)
        sizes.append((tmp_path / "a.jpg").stat().st_size)
    assert sizes[1] > 2 * sizes[0]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("before")
    with pytest.raises(RuntimeError), whole_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    with whole_file(path) as file:
        file.write(b"after")
        assert path.read_text() == "before"
    assert path.read_text() == "after" and list(tmp_path.iterdir()) == [path]
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


def test_chunks_of_16_bit_png_are_valid(tmp_path: Path) -> None:
    """Every chunk's checksum, and those that must precede the pixels do."""
    write_picture(Picture(noise(3, np.uint16), SRGB, exif_block(3), (72.0, 72.0)), tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    place, names = 8, []
    while place < len(data):
        size = struct.unpack(">I", data[place : place + 4])[0]
        body = data[place + 4 : place + 8 + size]
        assert struct.unpack(">I", data[place + 8 + size : place + 12 + size])[0] == zlib.crc32(body)
        names.append(body[:4])
        place += 12 + size
    assert names[0] == b"IHDR" and names[-1] == b"IEND"
    assert {b"iCCP", b"pHYs", b"eXIf"} <= set(names[: names.index(b"IDAT")])


@pytest.mark.parametrize(("orientation", "corners"), [
    (1, "abcd"), (2, "badc"), (3, "dcba"), (4, "cdab"), (5, "acbd"), (6, "cadb"), (7, "dbca"), (8, "bdac"),
])  # fmt: skip
def test_pixels_are_turned_upright(orientation: int, corners: str) -> None:
    """The stored corners a b / c d end where EXIF's definition of each orientation puts them."""
    pixels = np.array([ord(letter) for letter in "abcd"], np.uint16).reshape(2, 2, 1)
    assert "".join(map(chr, upright(pixels, orientation).ravel())) == corners
