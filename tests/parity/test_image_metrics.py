"""PSNR, SSIM, luma and MATLAB's bicubic, equal to what the papers' own code gave for made-up images."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vimzoo.data.pairs.degradations import imresize, to_image
from vimzoo.metrics import luma, psnr, ssim

REFERENCE = json.loads(
    (Path(__file__).parent / "references" / "mambair" / "metrics_psnr_ssim_imresize.json").read_text()
)
DECIBEL = 1e-4


def pixels(shape: list[int], seed: int) -> np.ndarray:
    """The recorded image, blue channel first."""
    y, x, c = np.ogrid[: shape[0], : shape[1], : shape[2]]
    noise = 15 * np.random.RandomState(seed).standard_normal(shape)
    return np.clip(np.round(127 + 80 * np.sin(y / 7) * np.cos(x / 11 + c) + noise), 0, 255).astype(np.uint8)


def image(shape: list[int], seed: int) -> torch.Tensor:
    """The recorded image as this package has images."""
    return to_image(pixels(shape, seed)[..., ::-1])


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=str)
def test_psnr_and_ssim(case: dict) -> None:
    one, two = (image(case["shape"], seed) for seed in case["seeds"])
    rule = {"crop": case["crop_border"], "y": case["test_y_channel"]}
    assert psnr(one, two, **rule) == pytest.approx(case["psnr"], abs=DECIBEL)
    assert ssim(one, two, **rule) == pytest.approx(case["ssim"], abs=1e-6)


def test_luma() -> None:
    want, found = REFERENCE["to_y_channel"], luma(pixels([64, 80, 3], 1)[..., ::-1])
    assert found.mean() == pytest.approx(want["mean"], rel=1e-6)
    assert found.std() == pytest.approx(want["std"], rel=1e-6)
    np.testing.assert_allclose(found.ravel()[: len(want["first"])], want["first"], rtol=1e-6)


@pytest.mark.parametrize("case", REFERENCE["imresize"], ids=lambda case: f"{case['scale']:.2f}")
def test_imresize(case: dict) -> None:
    recorded = to_image(pixels([64, 80, 3], 1))  # channels in the recorded order
    found = imresize(recorded, case["scale"]).permute(1, 2, 0)
    assert list(found.shape) == case["shape"]
    assert found.mean().item() == pytest.approx(case["mean"], abs=1e-6)
    assert found.double().std(correction=0).item() == pytest.approx(case["std"], abs=1e-6)
    count = len(case["last"])
    torch.testing.assert_close(found.flatten()[: len(case["first"])], torch.tensor(case["first"]))
    torch.testing.assert_close(found.flatten()[-count:], torch.tensor(case["last"]))


def test_whole_images_bad_sizes_and_crops() -> None:
    one, two = image([24, 24, 3], 1), image([24, 24, 3], 2)
    assert psnr(one, one) == float("inf") and ssim(one, one) == 1.0
    assert psnr(one + 0.001, two) == psnr(one, two)  # rounded to 8 bits before it is compared
    for wrong in (image([24, 23, 3], 2), image([24, 24, 3], 2)[:1]):
        with pytest.raises(ValueError, match="restored: expected the original's shape"):
            psnr(wrong, two)
    with pytest.raises(
        ValueError, match=r"restored: expected \(3, H, W\) or \(1, H, W\), got \(1, 3, 24, 24\)"
    ):
        psnr(one[None], two[None])
    with pytest.raises(ValueError, match="crop=7: expected to leave 11"):
        ssim(one, two, crop=7)
    with pytest.raises(ValueError, match="crop=12: expected to leave 1 "):
        psnr(one, two, crop=12)
