"""Scores of masks with values computed by hand, by brute force, and by the libraries that each rule is named after."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vimzoo.segmentation import EMPTY, counts, image_scores, mean_over, overlap, pooled, surface_scores

Box = tuple[int, ...]  # start and end of every axis


def mask(shape: tuple[int, ...], *boxes: Box, without: Box | None = None) -> np.ndarray:
    drawn = np.zeros(shape, dtype=bool)
    for box in boxes:
        drawn[tuple(slice(*box[i : i + 2]) for i in range(0, len(box), 2))] = True
    if without:
        drawn[tuple(slice(*without[i : i + 2]) for i in range(0, len(without), 2))] = False
    return drawn


SMALL, LARGE, VOLUME = (64, 64), (128, 128), (20, 40, 40)
R, B = (16, 48, 16, 48), (40, 80, 40, 80)
SHIFTED = mask(SMALL, (16, 48, 20, 52))
INF, NAN = math.inf, math.nan
# reference, prediction, spacing, Dice, IoU, HD95 pooled, HD95 max, Hausdorff
CASES = {
    "equal": (mask(SMALL, R), mask(SMALL, R), None, 1, 1, 0, 0, 0),
    "shifted": (mask(SMALL, R), SHIFTED, None, 0.875, 0.777778, 4, 4, 4),
    "wide pixels": (mask(SMALL, R), SHIFTED, (1, 2), 0.875, 0.777778, 8, 8, 8),
    "high pixels": (mask(SMALL, R), SHIFTED, (2, 1), 0.875, 0.777778, 4, 4, 4),
    "diagonal": (mask(SMALL, R), mask(SMALL, (19, 51, 20, 52)), None, 0.792969, 0.656958, 4, 4, 5),
    "pixels": (mask(SMALL, (10, 11, 10, 11)), mask(SMALL, (13, 14, 14, 15)), None, 0, 0, 5, 5, 5),
    "high single pixels": (
        mask(SMALL, (10, 11, 10, 11)), mask(SMALL, (13, 14, 14, 15)), (2, 1), 0, 0, 7.211103, 7.211103, 7.211103,
    ),
    "small island": (mask(LARGE, B), mask(LARGE, B, (60, 64, 110, 114)), None, 0.995025, 0.990099, 0, 31, 34),
    "larger island": (mask(LARGE, B), mask(LARGE, B, (60, 66, 110, 116)), None, 0.988875, 0.977995, 31, 34, 36),
    "at the border": (mask(LARGE, (0, 40, 40, 80)), mask(LARGE, (0, 30, 40, 80)), None, 0.857143, 0.75, 10, 10, 10),
    "hole": (mask(LARGE, B), mask(LARGE, B, without=(55, 65, 55, 65)), None, 0.967742, 0.9375, 14, 14, 14),
    "missed": (mask(SMALL, R), mask(SMALL), None, 0, 0, INF, INF, INF),
    "false alarm": (mask(SMALL), mask(SMALL, R), None, 0, 0, INF, INF, INF),
    "both empty": (mask(SMALL), mask(SMALL), None, NAN, NAN, NAN, NAN, NAN),
    "volume": (
        mask(VOLUME, (5, 15, 10, 30, 10, 30)), mask(VOLUME, (7, 17, 10, 30, 10, 30)),
        (5, 1, 1), 0.8, 0.666667, 10, 10, 10,
    ),
    "volume, turned spacing": (
        mask(VOLUME, (5, 15, 10, 30, 10, 30)), mask(VOLUME, (7, 17, 10, 30, 10, 30)),
        (1, 1, 5), 0.8, 0.666667, 2, 2, 2,
    ),
    "one more pixel": (mask(LARGE, B), mask(LARGE, B, (60, 61, 120, 121)), None, 0.999688, 0.999375, 0, 0, 41),
    "everything": (mask(SMALL, R), ~mask(SMALL), None, 0.4, 0.25, 21.260292, 21.260292, 22.627417),
    "corners": (
        mask(SMALL, (56, 64, 56, 64)), mask(SMALL, (0, 8, 0, 8)), None, 0, 0, 78.492038, 78.492038, 79.195959,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_class(name: str) -> None:
    reference, prediction, spacing, dice, iou, hd95, hd95_max, hausdorff = CASES[name]
    counted = counts(*(torch.from_numpy(m[None]).long() for m in (prediction, reference)), 2)[:, 1]
    found = surface_scores(prediction, reference, spacing)
    got = [*(float(overlap(counted, measure)) for measure in ("dice", "iou")), *found[:3]]
    assert got == pytest.approx([dice, iou, hd95, hd95_max, hausdorff], abs=1e-6, nan_ok=True)


def test_discs_and_mean_distance() -> None:
    rows, columns = np.ogrid[:128, :128]
    large, small = ((rows - 64) ** 2 + (columns - 64) ** 2 <= radius**2 for radius in (25, 20))
    found = surface_scores(small, large)
    assert found.hd95_pooled == 5 and found.hd95_max == found.hausdorff == pytest.approx(5.09902, abs=1e-5)
    reference, prediction = CASES["small island"][:2]
    assert surface_scores(prediction, reference).mean == pytest.approx(1.2037, abs=1e-4)


ORGAN = [(16, 48, 8, 40), (16, 48, 16, 48), (20, 44, 20, 44), None]
FOUND = [(16, 48, 12, 44), (16, 48, 16, 48), (20, 40, 20, 44), None]
LESION = [(4, 12, 50, 58), None, (50, 56, 50, 56), None]
SUSPECTED = [(6, 14, 50, 58), (4, 8, 4, 8), None, None]


def drawn(first: list[Box | None], second: list[Box | None]) -> Tensor:
    images = np.zeros((4, 64, 64), dtype=np.int64)
    for number, boxes in enumerate((first, second), start=1):
        for image, box in zip(images, boxes, strict=True):
            image[mask(SMALL, *([box] if box else []))] = number
    return torch.from_numpy(images)


@pytest.fixture(scope="module")
def counted() -> Tensor:
    """Both found; a false lesion; a missed lesion; nothing."""
    return counts(drawn(FOUND, SUSPECTED), drawn(ORGAN, LESION), 3)


def test_counts(counted: Tensor) -> None:
    assert counted[:, 1].tolist() == [[896, 128, 128], [1024, 0, 0], [480, 0, 96], [0, 0, 0]]
    assert counted[:, 2].tolist() == [[48, 16, 16], [0, 16, 0], [0, 0, 36], [0, 0, 0]]


RULES = {
    "left_out": (0.9280, 0.2500, 0.5890, 0.5352),
    "reference": (0.9280, 0.3750, 0.6515, 0.5852),
    "one": (0.9460, 0.4375, 0.6918, 0.6514),
    "zero": (0.6960, 0.1875, 0.4418, 0.4014),
    "synapse": (0.6960, 0.4375, 0.5668, None),
}


@pytest.mark.parametrize("empty", EMPTY)
def test_means_over_images(counted: Tensor, empty: str) -> None:
    organ, lesion, dice, iou = RULES[empty]
    means, images = mean_over(image_scores(counted, "dice", empty)[:, 1:])
    assert [*means.tolist(), float(means.mean())] == pytest.approx([organ, lesion, dice], abs=5e-5)
    assert images.tolist() == {"left_out": [3, 3], "reference": [3, 2]}.get(empty, [4, 4])
    if iou is not None:
        assert float(mean_over(image_scores(counted, "iou", empty)[:, 1:])[0].mean()) == pytest.approx(
            iou, abs=5e-5
        )


def test_classes_averaged_within_images(counted: Tensor) -> None:
    for measure, mean in (("dice", 0.7557), ("iou", 0.7019)):
        by_image = mean_over(image_scores(counted, measure, "reference")[:, 1:], 1)[0]
        assert float(mean_over(by_image)[0]) == pytest.approx(mean, abs=5e-5)


def test_pooled(counted: Tensor) -> None:
    assert pooled(counted)[1:].tolist() == pytest.approx([0.9317, 0.5333], abs=5e-5)
    assert float(pooled(counted)[1:].mean()) == pytest.approx(0.7325, abs=5e-5)
    assert float(pooled(counted, "iou")[1:].mean()) == pytest.approx(0.6179, abs=5e-5)
    assert float(pooled(counted).mean()) == pytest.approx(0.8164, abs=5e-5)
    assert float(pooled(counted, "iou").mean()) == pytest.approx(0.7348, abs=5e-5)
    merged = counted[:, 1:].sum(1, keepdim=True)
    assert [float(pooled(merged, m)) for m in ("dice", "iou")] == pytest.approx([0.9182, 0.8488], abs=5e-5)
    by_image = [float(image_scores(merged, m, "one").mean()) for m in ("dice", "iou")]
    assert by_image == pytest.approx([0.9348, 0.8838], abs=5e-5)


def test_ignored_pixels_count_on_neither_side() -> None:
    reference = torch.tensor([[0, 1, 255, 255], [255, 255, 255, 255]])
    prediction = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 0]])
    assert counts(prediction, reference, 2, ignore_index=255).tolist() == [
        [[0, 0, 1], [1, 1, 0]],
        [[0, 0, 0], [0, 0, 0]],
    ]
    with pytest.raises(ValueError, match=r"reference: expected class numbers 0\.\.1, got 255"):
        counts(prediction, reference, 2)


def test_a_class_that_is_never_predicted_counts() -> None:
    """The F-score of mmseg leaves it out and rises."""
    reference, prediction = (
        torch.tensor([[0] * 50 + [1] * 30 + [2] * 20]),
        torch.tensor([[0] * 70 + [1] * 30]),
    )
    scores = pooled(counts(prediction, reference, 3))
    assert scores[2] == 0 and not scores.isnan().any()
