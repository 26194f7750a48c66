"""Losses on whole maps with values that can be worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vimzoo.segmentation import SegmentationLoss, cross_entropy, dice_loss, level_weights, resized_target


@pytest.fixture(scope="module")
def quarter() -> Tensor:
    """One quarter foreground."""
    target = torch.zeros(1, 64, 64, dtype=torch.long)
    target[:, :32, :32] = 1
    return target


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"background": False}, 0.6667),
        ({"background": False, "squared": True}, 0.5),
        ({}, 0.5333),
        ({"squared": True}, 0.375),
        ({"background": False, "smooth": 1.0}, 0.6664),
    ],
)
def test_dice_of_a_constant(quarter: Tensor, options: dict[str, Any], value: float) -> None:
    loss = dice_loss(torch.zeros(1, 2, 64, 64), quarter, **options)
    assert float(loss) == pytest.approx(value, abs=5e-5)


def test_dice_over_batch_and_images() -> None:
    """Two images have no foreground: of each image alone these are total losses."""
    target = torch.zeros(2, 8, 8, dtype=torch.long)
    target[0, :4] = 1
    logits, options = torch.zeros(2, 2, 8, 8), {"background": False}
    assert float(dice_loss(logits, target, batch=True, **options)) == pytest.approx(1 - 2 * 16 / (64 + 32))
    assert float(dice_loss(logits, target, **options)) == pytest.approx((0.5 + 1) / 2, abs=1e-5)
    assert float(dice_loss(logits, target, absent="left_out", **options)) == pytest.approx(0.5, abs=1e-5)


def test_cross_entropy_is_divided_by_the_weights_of_kept_pixels() -> None:
    logits = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    target = torch.arange(50).view(2, 5, 5) % 3
    target[0, 0] = 255
    weights = torch.tensor([0.5, 1.0, 4.0])
    want = torch.nn.functional.cross_entropy(logits, target, weights, ignore_index=255)
    assert torch.allclose(cross_entropy(logits, target, weights), want)
    plain = torch.nn.functional.cross_entropy(logits, target, ignore_index=255)
    assert torch.allclose(cross_entropy(logits, target), plain)


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0])])
def test_all_pixels_ignored(weights: Tensor | None) -> None:
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    loss = SegmentationLoss(weights)(logits, torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss == 0 and logits.grad is not None and not logits.grad.any()


def test_classes_of_weight_zero() -> None:
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    cross_entropy(logits, torch.zeros(1, 4, 4, dtype=torch.long), torch.tensor([0.0, 1.0])).backward()
    assert logits.grad is not None and not logits.grad.any()


def test_ignored_pixels_change_nothing(quarter: Tensor) -> None:
    logits = torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(1))
    target = quarter.clone()
    target[:, 40:] = 255
    other = logits.clone()
    other[:, :, 40:] = 7.0
    loss = SegmentationLoss()
    assert torch.equal(loss(logits, target), loss(other, target))
    assert torch.allclose(loss(logits, target), loss(logits[:, :, :40], target[:, :40]))


def test_half_precision_is_summed_in_float32() -> None:
    target = torch.zeros(1, 512, 512, dtype=torch.long)
    loss = dice_loss(torch.zeros(1, 2, 512, 512, dtype=torch.half), target)
    assert loss.dtype == torch.float32 and float(loss) == pytest.approx((1 / 3 + 1) / 2, abs=1e-5)


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="expected shares"):
        SegmentationLoss(cross_entropy=0, dice=0)
    with pytest.raises(ValueError, match="absent='no': expected counted or left_out"):
        SegmentationLoss(absent="no")
    for levels in ([], [0.0, 0.0], [1.0, -1.0]):
        with pytest.raises(ValueError, match="expected weights of which one is above 0"):
            SegmentationLoss(levels=levels)
    with pytest.raises(ValueError, match=r"levels=\[1.0\]: expected 2 weights"):
        SegmentationLoss(levels=[1.0])([torch.zeros(1, 2, 4, 4)] * 2, torch.zeros(1, 4, 4).long())


def test_deep_supervision_weighs_resolutions(quarter: Tensor) -> None:
    """The coarsest has no weight, but gradients, as distributed training needs them."""
    assert level_weights(4) == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0]) and level_weights(1) == (1.0,)
    outputs = [
        torch.randn(1, 2, side, side, generator=torch.Generator().manual_seed(side), requires_grad=True)
        for side in (64, 32, 16)
    ]
    coarse = [quarter, quarter[:, 1::2, 1::2], quarter[:, 2::4, 2::4]]
    loss, weighted = SegmentationLoss(), SegmentationLoss(levels=[0.0, 0.0, 2.0])
    single = [loss(*pair) for pair in zip(outputs, coarse, strict=True)]
    assert torch.allclose(loss(outputs, quarter), (2 * single[0] + single[1]) / 3)
    assert torch.allclose(weighted(outputs, quarter), 2 * single[2])
    loss(outputs, quarter).backward()
    assert outputs[2].grad is not None and not outputs[2].grad.any()


def test_targets_are_resized_by_the_centre_of_each_pixel() -> None:
    target = torch.arange(8)[None, None].expand(1, 3, 8)
    assert resized_target(target, (3, 4))[0, 0].tolist() == [1, 3, 5, 7]
    assert resized_target(target, (3, 3))[0, 0].tolist() == [1, 4, 6]
    assert resized_target(target, (3, 8)) is target
