"""Degradations of photographs: against formulas, Pillow and each other, of a part as of the whole."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from pair_files import make_photo
from PIL import Image

from vimzoo.data import bundled_photos, degraded_folder
from vimzoo.data.pairs.crops import MODES
from vimzoo.data.pairs.degradations import Degradation, Window, add_noise, imresize, jpeg, to_image
from vimzoo.data.pairs.photos import photo_files
from vimzoo.errors import UsageError
from vimzoo.metrics import psnr, to_8bit


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


def test_noise_as_files_have_it(clean: Path) -> None:
    plain, rounded = (degraded_folder(str(clean), sigma=50, crop=16, rounded=on) for on in (False, True))
    noisy, stored = (data.val[0][0] for data in (plain, rounded))
    assert noisy.min() < 0 and noisy.max() > 1 and not torch.equal(noisy * 255, (noisy * 255).round())
    assert torch.equal(stored, to_image(to_8bit(noisy)))


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
