"""Losses on class scores of every pixel, with ignored pixels and class weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SegmentationLoss", "cross_entropy", "dice_loss", "level_weights", "resized_target"]


def cross_entropy(
    logits: Tensor, target: Tensor, weights: Tensor | None = None, ignore_index: int = 255
) -> Tensor:
    """The weighted mean over pixels that are not ignored; 0 with a gradient of 0 if there are none.

    The sum is divided by the weights of the kept pixels, as torch does it. torch gives NaN where all pixels are
    ignored, and NaN gradients where all have a weight of 0.

    Args:
        logits: (B, C, ...), summed in float32.
        target: Class numbers (B, ...), int64.
        weights: Of the classes, (C,).
        ignore_index: Class number of pixels that are left out.
    """
    weights = None if weights is None else weights.to(logits.device, torch.float32)
    total = F.cross_entropy(logits.float(), target, weights, ignore_index=ignore_index, reduction="sum")
    kept = target[target != ignore_index]
    share = kept.new_tensor(kept.numel(), dtype=torch.float32) if weights is None else weights[kept].sum()
    return total / share.where(share > 0, 1.0)


def dice_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    background: bool = True,
    batch: bool = False,
    absent: str = "counted",
    squared: bool = False,
    smooth: float = 1e-5,
) -> Tensor:
    """One minus the mean soft Dice of the classes, ``(2 sum(p g) + smooth) / (sum(p) + sum(g) + smooth)``.

    Ignored pixels are left out of all three sums, which are taken in float32.

    Args:
        logits: (B, C, ...); the probabilities p are their softmax.
        target: Class numbers (B, ...), int64.
        ignore_index: Class number of pixels that are left out.
        background: Whether class 0 counts.
        batch: Sum over the whole batch instead of each image.
        absent: ``"counted"``: a class without a pixel in the target has a loss of 1 as soon as anything is predicted
            (MONAI, nnU-Net). ``"left_out"``: it does not count, whatever is predicted (segmentation-models-pytorch).
        squared: Square the probabilities in the denominator.
        smooth: Added to both sides of the fraction.

    Raises:
        ValueError: ``absent`` has no such value, or no class is left.
    """
    if absent not in ("counted", "left_out"):
        raise ValueError(f"absent={absent!r}: expected counted or left_out")
    classes = logits.shape[1]
    if classes < 2:
        raise ValueError(f"logits: expected two classes or more, got {classes}")
    kept = (target != ignore_index).flatten(1)[:, None]
    guess = logits.float().softmax(1).flatten(2) * kept
    truth = F.one_hot(target.flatten(1).where(kept[:, 0], 0), classes).transpose(1, 2) * kept
    over = (0, 2) if batch else (2,)
    size = (guess.square() if squared else guess).sum(over)
    common, present = (guess * truth).sum(over), truth.sum(over)
    loss = 1 - (2 * common + smooth) / (size + present + smooth)
    first = 0 if background else 1
    loss, present = loss[..., first:], present[..., first:]
    if absent == "counted":
        return loss.mean()
    found = present > 0
    return (loss * found).sum() / found.sum().clamp(min=1)


def level_weights(count: int) -> tuple[float, ...]:
    """Weights of the losses of ``count`` resolutions as in nnU-Net: 1, 1/2, 1/4, ..., 0, divided by their sum."""
    weights = [0.5**level for level in range(count)]
    if count > 1:
        weights[-1] = 0.0
    return tuple(weight / sum(weights) for weight in weights)


def resized_target(target: Tensor, size: Sequence[int]) -> Tensor:
    """Class numbers (B, H, W) at another resolution, (B, *size); each pixel takes the value at its centre."""
    for axis, wanted in enumerate(size, start=1):
        have = target.shape[axis]
        if have != wanted:
            places = (torch.arange(wanted, device=target.device) * 2 + 1) * have // (2 * wanted)
            target = target.index_select(axis, places)
    return target


class SegmentationLoss(nn.Module):
    """Cross-entropy plus soft Dice, each times a share; of scores of several resolutions the weighted sum.

    Args:
        weights: Class weights of the cross-entropy (C,); Dice weighs all classes alike.
        ignore_index: Class number of pixels that are left out of both.
        cross_entropy, dice: Shares of the two; 0 leaves one out.
        background, batch, absent, squared, smooth: As in `dice_loss`.
        levels: Weights of resolutions in deep supervision, the finest first; None takes `level_weights`.

    Raises:
        ValueError: a share is negative, or both are 0; ``absent`` has no such value; a weight in ``levels`` is
            negative, or all are 0.
    """

    weights: Tensor | None

    def __init__(
        self,
        weights: Tensor | None = None,
        ignore_index: int = 255,
        *,
        cross_entropy: float = 1.0,
        dice: float = 1.0,
        background: bool = True,
        batch: bool = False,
        absent: str = "counted",
        squared: bool = False,
        smooth: float = 1e-5,
        levels: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if levels is not None and (min(levels, default=-1) < 0 or sum(levels) == 0):
            raise ValueError(f"levels={list(levels)}: expected weights of which one is above 0")
        if min(cross_entropy, dice) < 0 or cross_entropy == dice == 0:
            raise ValueError(
                f"cross_entropy={cross_entropy}, dice={dice}: expected shares of which one is above 0"
            )
        if absent not in ("counted", "left_out"):
            raise ValueError(f"absent={absent!r}: expected counted or left_out")
        self.register_buffer("weights", weights)
        self.ignore_index = ignore_index
        self.shares = cross_entropy, dice
        self.levels = None if levels is None else tuple(levels)
        self.options: dict[str, bool | str | float] = dict(
            background=background, batch=batch, absent=absent, squared=squared, smooth=smooth
        )

    def forward(self, output: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        """Logits (B, C, ...), or a list of several resolutions, and class numbers (B, ...) -> a number.

        Raises:
            ValueError: there are other resolutions than ``levels`` has weights.
        """
        if isinstance(output, Tensor):
            return self._of_one(output, target)
        weights = level_weights(len(output)) if self.levels is None else self.levels
        if len(weights) != len(output):
            raise ValueError(f"levels={list(weights)}: expected {len(output)} weights, one for each output")
        # a weight of 0 counts, too: parameters without a gradient would stop distributed training
        parts = [
            weight * self._of_one(part, resized_target(target, part.shape[2:]))
            for weight, part in zip(weights, output, strict=True)
        ]
        return torch.stack(parts).sum()

    def _of_one(self, output: Tensor, target: Tensor) -> Tensor:
        loss = output.new_zeros(())
        if self.shares[0]:
            part = cross_entropy(output, target, self.weights, self.ignore_index)
            loss = loss + self.shares[0] * part
        if self.shares[1]:
            part = dice_loss(output, target, ignore_index=self.ignore_index, **self.options)  # type: ignore[arg-type]
            loss = loss + self.shares[1] * part
        return loss
