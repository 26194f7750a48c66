"""Large images through overlapping windows: spread evenly and weighted by a Gaussian, as nnU-Net does it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["gaussian_weights", "sliding_windows", "window_starts"]


def window_starts(length: int, window: int, overlap: float = 0.5) -> list[int]:
    """Where windows begin along an axis: the first at 0, the last at the end, the others evenly between them.

    Args:
        length: Of the axis.
        window: Length of a window; a longer one begins at 0.
        overlap: Least share of a window that it has in common with the next, below 1.
    """
    room = max(0, length - window)
    steps = math.ceil(room / (window * (1 - overlap)))
    return [round(room * step / steps) for step in range(steps + 1)] if steps else [0]


def gaussian_weights(window: Sequence[int]) -> Tensor:
    """Weights of a window's pixels, float32 of its shape: 1 at pixel ``side // 2``, with a deviation of side / 8."""
    weights = torch.ones(())
    for side in window:
        distance = (torch.arange(side) - side // 2) * (8 / side)
        weights = weights[..., None] * torch.exp(-0.5 * distance.square())
    return weights


def sliding_windows(
    function: Callable[[Tensor], Tensor],
    images: Tensor,
    window: Sequence[int],
    overlap: float = 0.5,
    batch: int = 4,
) -> Tensor:
    """Class scores of images of any size from a function that is called with windows of one size.

    Sums are in float32. Images smaller than the window are padded with zeros on both sides.

    Args:
        function: (n, C, *window) -> scores (n, K, *window), before softmax or argmax.
        images: (B, C, ...), of as many axes as the window.
        window: Size of the window, in the order of the axes.
        overlap: Least share that neighbouring windows have in common.
        batch: Windows per call.

    Returns:
        (B, K, ...) float32, of the size of the images.

    Raises:
        ValueError: the window does not fit the images' axes, the overlap is not in 0..1 (1 excluded), or the function
            returns scores of another size.
    """
    size = tuple(window)
    if len(size) != images.ndim - 2 or min(size) < 1:
        raise ValueError(f"window={size}: expected {images.ndim - 2} positive sides")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap={overlap}: expected at least 0 and below 1")
    if batch < 1:
        raise ValueError(f"batch={batch}: expected at least 1")
    if not len(images):
        raise ValueError(f"images: expected at least one, got {tuple(images.shape)}")
    lacking = [max(0, side - length) for side, length in zip(size, images.shape[2:], strict=True)]
    before = [lack // 2 for lack in lacking]
    pads = [
        pad
        for low, lack in zip(reversed(before), reversed(lacking), strict=True)
        for pad in (low, lack - low)
    ]
    padded = F.pad(images, pads) if any(lacking) else images
    starts = [
        window_starts(length, side, overlap) for length, side in zip(padded.shape[2:], size, strict=True)
    ]
    parts = [
        (image, tuple(slice(at, at + side) for at, side in zip(corner, size, strict=True)))
        for image in range(len(images))
        for corner in product(*starts)
    ]
    weights = gaussian_weights(size).to(images.device)
    sums = total = torch.empty(0)
    for first in range(0, len(parts), batch):
        chosen = parts[first : first + batch]
        scores = function(torch.stack([padded[image][:, *place] for image, place in chosen]))
        if scores.ndim != images.ndim or scores.shape[2:] != size:
            raise ValueError(
                f"function: expected scores (n, K, {', '.join(map(str, size))}), got {tuple(scores.shape)}"
            )
        if not first:
            sums = weights.new_zeros(len(images), scores.shape[1], *padded.shape[2:])
            total = torch.zeros_like(sums[:, :1])
        for (image, place), part in zip(chosen, scores.float(), strict=True):
            sums[image][:, *place] += part * weights
            total[image][:, *place] += weights
    kept = tuple(slice(low, low + length) for low, length in zip(before, images.shape[2:], strict=True))
    return (sums / total)[:, :, *kept]
