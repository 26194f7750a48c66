"""Dice and IoU under the rules that published tables use, all from the same counts.

The same masks score between 0.44 and 0.93 in Dice, depending on the rule, so every number here is named by its rule:

    per_class = pooled(counts(prediction, reference, 3))             # one confusion matrix for the whole set
    per_image = image_scores(counts(prediction, reference, 3))       # (N, C); NaN where there is nothing to find
    means, images = mean_over(per_image)                             # and how many images count

Where a class occurs neither in the reference nor in the prediction, the score is undefined. It is NaN and left out of
means; it never counts as perfect, except under the rule ``one`` of `EMPTY`.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["EMPTY", "MEASURES", "counts", "image_scores", "mean_over", "overlap", "pooled"]

MEASURES = ("dice", "iou")

# Rule -> score where both sides are empty, and where the reference alone is; None keeps Dice and IoU of the counts: 0
_RULES: dict[str, tuple[float, float | None]] = {
    "left_out": (torch.nan, None),
    "reference": (torch.nan, torch.nan),
    "one": (1.0, None),
    "zero": (0.0, None),
    "synapse": (0.0, 1.0),
}
EMPTY = tuple(_RULES)
"""Rules for a class that does not occur in an image:

- ``left_out``: undefined where both sides are empty (nnU-Net).
- ``reference``: undefined where the reference is empty (MONAI's ``ignore_empty=True``); false alarms are not punished.
- ``one``: 1 where both sides are empty (U-Mamba's script, many ACDC scripts).
- ``zero``: 0 where both sides are empty.
- ``synapse``: 1 where something is predicted without a reference, 0 where both sides are empty: the scripts of
  TransUNet and VM-UNet. It rewards false alarms and serves only to compare with their tables.
"""


def counts(prediction: Tensor, reference: Tensor, classes: int, ignore_index: int | None = None) -> Tensor:
    """True positives, false positives and false negatives of every image and class.

    Args:
        prediction, reference: Class numbers, (N, ...) of any integer type.
        classes: Number of classes.
        ignore_index: Value of reference pixels that are not counted on either side.

    Returns:
        (N, classes, 3) int64, on the same device.

    Raises:
        ValueError: the shapes differ, there is no axis of images, or a number is not 0..classes-1.
    """
    if prediction.shape != reference.shape or prediction.ndim < 2:
        raise ValueError(
            f"prediction: expected (N, ...) as the reference, {tuple(reference.shape)}; "
            f"got {tuple(prediction.shape)}"
        )
    guess, truth = prediction.flatten(1).long(), reference.flatten(1).long()
    kept = torch.ones_like(truth, dtype=torch.bool) if ignore_index is None else truth != ignore_index
    for name, values in {"prediction": guess, "reference": truth}.items():
        if (bad := values[kept & ((values < 0) | (values >= classes))]).numel():
            raise ValueError(f"{name}: expected class numbers 0..{classes - 1}, got {int(bad[0])}")
    image = torch.arange(len(truth), device=truth.device)[:, None].expand_as(truth)[kept]
    pair = (image * classes + truth[kept]) * classes + guess[kept]
    confusion = pair.bincount(minlength=len(truth) * classes * classes).view(-1, classes, classes)
    hits = confusion.diagonal(dim1=1, dim2=2)
    return torch.stack([hits, confusion.sum(1) - hits, confusion.sum(2) - hits], dim=-1)


def overlap(counted: Tensor, measure: str = "dice") -> Tensor:
    """Dice or IoU of counts (..., 3), as float64 (...); NaN where all three are 0.

    Raises:
        ValueError: there is no such measure.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure={measure!r}: expected one of {', '.join(MEASURES)}")
    hits, alarms, misses = counted.double().unbind(-1)
    weight = 2 if measure == "dice" else 1
    return weight * hits / (weight * hits + alarms + misses)


def pooled(counted: Tensor, measure: str = "dice") -> Tensor:
    """Score of each class over all images at once: the mIoU of ADE20K-like tables, the DSC of VM-UNet's ISIC tables.

    Args:
        counted: (N, C, 3), see `counts`.
        measure: One of `MEASURES`.

    Returns:
        (C,) float64; NaN for a class that occurs nowhere.
    """
    return overlap(counted.sum(0), measure)


def image_scores(counted: Tensor, measure: str = "dice", empty: str = "left_out") -> Tensor:
    """Score of each image and class.

    Args:
        counted: (N, C, 3), see `counts`.
        measure: One of `MEASURES`.
        empty: One of `EMPTY`.

    Returns:
        (N, C) float64, NaN where the rule leaves an image out.

    Raises:
        ValueError: there is no such measure or rule.
    """
    if empty not in _RULES:
        raise ValueError(f"empty={empty!r}: expected one of {', '.join(EMPTY)}")
    both, alone = _RULES[empty]
    hits, alarms, misses = counted.unbind(-1)
    scores, absent = overlap(counted, measure), hits + misses == 0
    if alone is not None:
        scores = scores.masked_fill(absent & (alarms > 0), alone)
    return scores.masked_fill(absent & (alarms == 0), both)


def mean_over(scores: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    """Means without NaN and infinity along an axis, and how many values each of them is of; NaN if of none."""
    finite = scores.isfinite()
    count = finite.sum(dim)
    return scores.masked_fill(~finite, 0).sum(dim) / count, count
