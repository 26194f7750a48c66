"""Degradations and the data sets of pairs: against formulas, Pillow and each other; folder layouts and their errors."""

import io
import shutil
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngImageFile

from vimzoo.data import bundled_photos, degraded_folder, paired_folder, train_loader
from vimzoo.data.images.decode import size_of
from vimzoo.data.pairs.crops import MODES, PixelCache, image_size, read_pixels
from vimzoo.data.pairs.degradations import Degradation, Window, add_noise, imresize, jpeg, to_image
from vimzoo.data.pairs.photos import PHOTOS, photo_files
from vimzoo.errors import UsageError
from vimzoo.metrics import psnr, to_8bit

FLIPS = {"flip": True, "rotate": True}


def make_photo(path: Path, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random image in a file; returns its pixels."""
    coarse = np.random.RandomState(seed).rand(3, height // 8 + 2, width // 8 + 2)
    smooth = imresize(torch.from_numpy(coarse).float(), 8)[:, :height, :width]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(to_8bit(smooth)).save(path)
    return to_8bit(smooth)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """Ten clean images, one in a folder of its own."""
    for i in range(9):
        make_photo(tmp_path / "clean" / f"{i}.png", 41, 50, i)
    make_photo(tmp_path / "clean" / "more" / "9.png", 64, 36, 9)
    return tmp_path / "clean"


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Five pairs at scale 2, named as in DIV2K; clean sizes are odd."""
    for i in range(5):
        pixels = make_photo(tmp_path / "pairs" / "high" / f"{i}.png", 41, 51, i)
        small = imresize(to_image(pixels[:40, :50]), 0.5)
        (tmp_path / "pairs" / "low").mkdir(exist_ok=True)
        Image.fromarray(to_8bit(small)).save(tmp_path / "pairs" / "low" / f"{i}x2.png")
    return tmp_path / "pairs"


def test_imresize_keeps_lines_and_constants() -> None:
    """The cubic kernel reproduces straight lines away from the border, constants everywhere."""
    line = torch.arange(40.0, dtype=torch.float64).expand(1, 5, 40)
    found = imresize(line, 2)[0, 4, 8:-8]
    torch.testing.assert_close(found, (torch.arange(80.0, dtype=torch.float64)[8:-8] + 0.5) / 2 - 0.5)
    for scale in (0.5, 1 / 3, 0.3, 1, 1.7, 4):
        assert torch.allclose(imresize(torch.full((1, 9, 13), 0.25), scale), torch.tensor(0.25))
    assert imresize(torch.rand(2, 3, 7, 1), 0.5).shape == (2, 3, 4, 1)
    with pytest.raises(ValueError, match="scale=0"):
        imresize(line, 0)
    with pytest.raises(ValueError, match="floating-point"):
        imresize(line.int(), 2)


def test_noise_is_the_published_protocol() -> None:
    """The authors' lines: the seed set to 0 for every image, normal numbers for (H, W, BGR)."""
    image = torch.rand(3, 20, 30)
    np.random.seed(0)
    theirs = image.permute(1, 2, 0).numpy()[..., ::-1] + np.random.normal(0, 25 / 255.0, (20, 30, 3))
    ours = add_noise(image, 25, np.random.RandomState(0))
    np.testing.assert_allclose(ours.permute(1, 2, 0).numpy()[..., ::-1], theirs, atol=1e-6)
    assert ours.min() < 0 and ours.max() > 1  # not clipped
    assert add_noise(image[:1], 25, np.random.RandomState(0)).shape == (1, 20, 30)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(tmp_path: Path, channels: int) -> None:
    pixels = make_photo(tmp_path / "a.png", 33, 47)[..., :channels]
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels).save(file, "JPEG", quality=30)
    want = np.asarray(Image.open(file)).reshape(33, 47, channels)
    assert np.array_equal(to_8bit(jpeg(to_image(pixels), 30)), want)
    assert psnr(jpeg(to_image(pixels), 90), to_image(pixels)) > psnr(
        jpeg(to_image(pixels), 10), to_image(pixels)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to restore"),
        ({"scale": 0}, "`scale`=0"),
        ({"scale": 1.5}, "`scale`=1.5"),
        ({"sigma": -1}, "`sigma`=-1"),
        ({"quality": 101}, "`quality`=101"),
        ({"sigma": [50, 0]}, r"`sigma`=\[50, 0\]: expected 0 or more \(in 1/255\), or a range"),
        ({"sigma": [0, 0]}, "nothing to restore"),
    ],
)
def test_impossible_degradations(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Degradation(**options)


def test_a_range_of_noise_is_drawn_from_for_training_and_halved_for_evaluation() -> None:
    options = dict(crop=40, crops=40, eval_crop=64)
    data = bundled_photos(sigma=[0, 50], **options)
    levels = [255 * (low - high).std().item() for low, high in (data.train[0, i] for i in range(40))]
    assert min(levels) < 8 and max(levels) > 42 and np.mean(levels) == pytest.approx(25, abs=6)
    assert torch.equal(data.val[0][0], bundled_photos(sigma=25, **options).val[0][0])


def test_photographs_come_with_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is there without pooch, which could download it; no photograph is in two splits."""
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    files = [path for split in PHOTOS for path in photo_files(split)]
    assert len({path.name for path in files}) == len(files) == sum(map(len, PHOTOS.values()))
    assert all(min(image_size(path)) >= 300 for path in files)
    data = bundled_photos(sigma=25)
    assert [data.test[i][1].shape for i in range(2)] == [(3, 300, 451), (3, 400, 600)]


def test_missing_photographs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PHOTOS, "val", ("sklearn/datasets/images/moon.jpg",))
    with pytest.raises(UsageError, match=r"this version of sklearn lacks datasets/images/moon.jpg"):
        bundled_photos(sigma=25)
    monkeypatch.setitem(PHOTOS, "val", ("no_such_package/moon.jpg",))
    with pytest.raises(
        UsageError, match=r"need no_such_package; install it with: pip install 'vimzoo\[train\]'"
    ):
        bundled_photos(sigma=25)


def test_crops_are_parts_of_their_photograph(clean: Path) -> None:
    """Each degraded crop is the corresponding part of the whole image reduced at once, in one of eight positions."""
    data = degraded_folder(str(clean), scale=2, crop=16, crops=64, aug=FLIPS)
    source, seen = data.train.pairs, set()
    for index in range(64):
        low, high = data.train[3, index]
        whole_low, whole_high = (to_image(p) for p in source.pixels((3 * 64 + index) % len(source)))
        for turn in range(8):
            a, b = ((x.flip(2) if turn & 1 else x).rot90(turn >> 1, (1, 2)) for x in (low, high))
            windows = whole_low.unfold(1, 8, 1).unfold(2, 8, 1)
            hits = (windows == a[:, None, None]).all(4).all(3).all(0).nonzero()
            if len(hits):
                y, x = (2 * hits[0]).tolist()
                assert torch.equal(whole_high[:, y : y + 16, x : x + 16], b)
                seen.add(turn)
                break
        else:
            raise AssertionError(f"crop {index} is no part of its photograph")
    assert seen == set(range(8))


def test_crops_depend_on_seed_epoch_and_index_alone(clean: Path) -> None:
    one, two = (degraded_folder(str(clean), sigma=25, crop=16, crops=12, seed=1, aug=FLIPS) for _ in range(2))
    two.train[0, 0]
    assert all(map(torch.equal, one.train[1, 5], two.train[1, 5]))
    assert not torch.equal(one.train[1, 5][0], one.train[2, 5][0])
    other = degraded_folder(str(clean), sigma=25, crop=16, crops=12, seed=2, aug=FLIPS)
    assert not torch.equal(one.train[1, 5][0], other.train[1, 5][0])
    alone, helped = (list(train_loader(one, 4, seed=1, workers=n)) for n in (0, 2))
    assert all(
        torch.equal(a, b) for x, y in zip(alone, helped, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_few_crops_an_epoch_reach_every_image_in_time(clean: Path) -> None:
    data = degraded_folder(str(clean), sigma=5, crop=16, crops=3)
    read: list[int] = []
    original = data.train.pairs.pixels
    data.train.pairs.pixels = lambda index, *args: (read.append(index), original(index, *args))[1]  # type: ignore[method-assign]
    for epoch in range(3):
        for index in range(3):
            data.train[epoch, index]
    assert sorted(set(read)) == list(range(len(data.train.pairs)))


def test_evaluation_is_whole_and_repeatable(clean: Path) -> None:
    data = degraded_folder(str(clean), sigma=25, scale=3, crop=15, eval_crop=None)
    assert (len(data.train.pairs), len(data.val), len(data.test)) == (8, 1, 1) and data.eval_batch == 1
    low, high = data.test[0]
    assert [side * 3 for side in low.shape[1:]] == list(high.shape[1:]) and high.shape[1] % 3 == 0
    assert all(map(torch.equal, data.test[0], data.test[0]))
    cut = degraded_folder(str(clean), sigma=25, scale=3, crop=15, eval_crop=14).test[0]
    assert cut[0].shape == (3, 4, 4) and cut[1].shape == (3, 12, 12)


def test_pairs_are_found_by_name_and_cut_to_size(pairs: Path) -> None:
    data = paired_folder(str(pairs), crop=16, val_fraction=0.2, test_fraction=0.2)
    assert data.scale == 2 and data.input_size == (3, 8, 8) and data.classes == ()
    low, high = data.val[0]
    assert low.shape == (3, 20, 25) and high.shape == (3, 40, 50)
    assert torch.equal(low, to_image(to_8bit(imresize(high, 0.5))))
    assert paired_folder(str(pairs), crop=16, in_chans=1).train[0, 0][0].shape == (1, 8, 8)


def test_divided_folders(pairs: Path, tmp_path: Path) -> None:
    root = tmp_path / "divided"
    root.mkdir()
    pairs.rename(root / "train")
    with pytest.raises(UsageError, match="found train/ without its counterpart; expected DIR/low"):
        paired_folder(str(root), crop=16)
    for kind, height in (("high", 16), ("low", 16)):
        make_photo(root / "val" / kind / "a.png", height, 16)
    with pytest.raises(UsageError, match=r"images of scales \[1, 2\]"):
        paired_folder(str(root), crop=16)
    make_photo(root / "val" / "low" / "a.png", 8, 8)
    data = paired_folder(str(root), crop=16)
    assert (len(data.train.pairs), len(data.val), data.test) == (5, 1, None)
    assert data.notes == ("train/ is train, val/ is val",)


@pytest.mark.parametrize(
    ("folders", "sizes"),
    (
        (("Train", "Val"), (5, 5, None)),
        (("TRAINING", "dev", "Testing"), (5, 5, 5)),
        (("all/train", "all/Valid"), (5, 5, None)),
        (("train", "Test"), (4, 1, 5)),
    ),
)
def test_splits_are_known_by_their_names(pairs: Path, folders: tuple[str, ...], sizes: tuple) -> None:
    """As in class folders, for pairs and for clean images; none of a split is held out again."""
    root = pairs.parent / "divided"
    for folder in folders:
        shutil.copytree(pairs, root / folder)
    clean_root = pairs.parent / "divided_clean"
    for folder in folders:
        shutil.copytree(pairs / "high", clean_root / folder)
    for data in (paired_folder(str(root), crop=16), degraded_folder(str(clean_root), sigma=5, crop=16)):
        assert (len(data.train.pairs), len(data.val), data.test and len(data.test)) == sizes
        first, last = Path(folders[0]), Path(folders[-1])
        assert all(first.name in path.parts for path in data.train.pairs.high)
        if data.test is not None:
            assert all(last.name in path.parts for path in data.test.pairs.high)
            held = "validation images are held out of train/"
            assert (held in data.notes) == (len(folders) == 2)
        assert not set(data.train.pairs.high) & set(data.val.pairs.high)
        assert any(f"{first.name}/ is train" in note for note in data.notes)


@pytest.mark.parametrize(
    ("folders", "says"),
    (
        (("train", "cats"), r"in two ways: train as a split beside other folders \(cats\), or all of them as one set"),
        (("train", "Training", "val"), r"expected one folder for train"),
        (("DIV2K_train_HR", "DIV2K_valid_HR"), r"DIV2K_train_HR, DIV2K_valid_HR as splits, or as one set of images"),
        (("val", "test"), r"found test and val/ without its counterpart; expected images in DIR"),
    ),
)  # fmt: skip
def test_folders_that_may_be_splits(tmp_path: Path, folders: tuple[str, ...], says: str) -> None:
    for folder in folders:
        make_photo(tmp_path / folder / "a.png", 24, 24)
    with pytest.raises(UsageError, match=says):
        degraded_folder(str(tmp_path), sigma=5, crop=16)


def test_a_share_of_nothing_is_no_test(clean: Path) -> None:
    data = degraded_folder(str(clean), sigma=5, crop=16, test_fraction=0)
    assert data.test is None and len(data.train.pairs) + len(data.val) == 10


def test_unusable_pairs_are_named(pairs: Path) -> None:
    with pytest.raises(
        UsageError, match=r"no folder .*high/low or lr, lq, .*; expected DIR/low with DIR/high"
    ):
        paired_folder(str(pairs / "high"))
    (pairs / "low" / "3x2.png").rename(pairs / "low" / "other.png")
    with pytest.raises(UsageError, match=r"2 files without a partner: low/other.png, high/3.png"):
        paired_folder(str(pairs))
    (pairs / "low" / "other.png").rename(pairs / "low" / "3x2.png")
    make_photo(pairs / "low" / "4x2.png", 20, 24)
    with pytest.raises(UsageError, match=r"4x2.png is \(20, 24\) and .*4.png \(41, 51\); expected 2 times"):
        paired_folder(str(pairs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": None}, "`root` is not set"),
        ({"root": "nowhere"}, "`root`=nowhere: no such folder"),
        ({"crop": 44}, "`crop`=44: .* is only 41 x 50 pixels"),
        ({"scale": 2, "crop": 15}, "`crop`=15: expected a positive multiple of the scale, 2"),
        ({"scale": 2, "crop": 16, "eval_crop": 1}, "`eval_crop`=1"),
        ({"crop": 16, "crops": 0}, "`crops`=0"),
        ({"crop": 16, "in_chans": 4}, "`in_chans`=4"),
        ({"crop": 16, "aug": {"scale": 1}}, "`aug`: .* take flip and rotate, not scale"),
        ({"crop": 16, "val_fraction": 0.6, "test_fraction": 0.6}, "below 1, also in sum"),
    ],
)
def test_unusable_requests_are_named(clean: Path, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        degraded_folder(**{"root": str(clean), "sigma": 25, **options})


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


def test_cache_forgets_the_longest_unused() -> None:
    cache, made = PixelCache(limit=250), []

    def get(key: str) -> None:
        cache.get(key, lambda: made.append(key) or np.zeros(100, dtype=np.uint8))  # type: ignore[func-returns-value]

    for key in "abacab":
        get(key)
    assert made == ["a", "b", "c", "b"] and cache.bytes == 200


@pytest.mark.parametrize("scale", (2, 3, 4))
def test_a_part_is_reduced_as_the_whole_is(scale: int) -> None:
    """Equal in every pixel, in the middle and at the borders, from little more of the image than the part."""
    pixels = np.random.default_rng(scale).integers(0, 256, (30 * scale, 41 * scale, 3), dtype=np.uint8)
    whole = to_8bit(imresize(to_image(pixels), 1 / scale))
    degradation = Degradation(scale=scale)
    assert np.array_equal(degradation.reduced(pixels), whole)
    for top, left, height, width in (
        (0, 0, 9, 8),
        (11, 17, 5, 6),
        (22, 30, 8, 11),
        (0, 0, 30, 41),
        (29, 0, 1, 41),
    ):
        window = Window(top, left, height, width)
        part = degradation.reduced(pixels, window)
        assert np.array_equal(part, whole[top : top + height, left : left + width])
    seen: list[tuple[int, ...]] = []
    watched = pixels.view(Watched)
    watched.seen = seen
    degradation.reduced(watched, Window(11, 17, 5, 6))
    assert seen == [(13 * scale, 14 * scale, 3)]


class Watched(np.ndarray):
    """Tells the shapes of what is taken of it."""

    seen: list[tuple[int, ...]]

    def __getitem__(self, key):
        part = super().__getitem__(key).view(np.ndarray)
        self.seen.append(part.shape)
        return part


@pytest.mark.parametrize("channels", (1, 3))
@pytest.mark.parametrize("quality", (10, 75))
def test_a_part_is_coded_as_in_the_whole_file(quality: int, channels: int) -> None:
    """JPEG's blocks are those of the image, not of the crop: equal to a crop of the whole image's JPEG file."""
    photo = Image.open(photo_files("test")[0]).convert(MODES[channels])
    pixels = np.asarray(photo)[:150, :203].reshape(150, 203, channels)
    whole = to_8bit(jpeg(to_image(pixels), quality))
    degradation, rng = Degradation(quality=quality), np.random.default_rng(0)
    for top, left in ((0, 0), (3, 5), (60, 77), (150 - 31, 203 - 30), (17, 173)):
        window = Window(top, left, 31, 30)
        part = degradation.coded(lambda wide: pixels[wide.slices()], window, (150, 203), rng)
        assert np.array_equal(part, whole[window.slices()]), (top, left)


def test_training_crops_of_jpeg_begin_anywhere_in_its_blocks() -> None:
    """The published recipes cut coded images: blocks begin in each of eight columns, before and after a flip."""
    data = bundled_photos(quality=10, crop=62, crops=200, in_chans=1, aug=FLIPS)

    def phase(low: np.ndarray) -> int:
        steps = np.abs(np.diff(low, axis=1)).mean(0)
        return int(np.argmax([steps[offset::8].mean() for offset in range(8)]))

    found = {phase(data.train[0, index][0][0].numpy()) for index in range(100)}
    assert found == set(range(8))


def test_noise_as_files_have_it(clean: Path) -> None:
    plain, rounded = (degraded_folder(str(clean), sigma=50, crop=16, rounded=on) for on in (False, True))
    noisy, stored = (data.val[0][0] for data in (plain, rounded))
    assert noisy.min() < 0 and noisy.max() > 1 and not torch.equal(noisy * 255, (noisy * 255).round())
    assert torch.equal(stored, to_image(to_8bit(noisy)))


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
