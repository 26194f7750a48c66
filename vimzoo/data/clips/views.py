"""Which frames and which part of them a clip holds, as VideoMamba's authors sample films."""

from __future__ import annotations

import math

import numpy as np
import torch.nn.functional as F
from torch import Tensor


def spread(count: int, frames: int, clip: int = 0, clips: int = 1) -> np.ndarray:
    """Numbers (frames,) of the frames of clip ``clip`` of ``clips``, spread over a film of ``count`` frames."""
    segment = (count - 1) / frames
    places = np.round(segment * np.arange(frames)) + int(segment / (clips + 1) * (clip + 1))
    return np.minimum(places, count - 1).astype(np.int64)


def drawn(count: int, frames: int, draws: np.random.Generator) -> np.ndarray:
    """Numbers (frames,) of random frames, one from each of ``frames`` equal stretches of a film."""
    edges = np.round((count - 1) / frames * np.arange(frames + 1)).astype(np.int64)
    return draws.integers(edges[:-1], edges[1:], endpoint=True)


def crops_of(clip: Tensor, size: int, crops: int) -> list[Tensor]:
    """Squares of a clip (C, T, H, W) whose short side is resized to ``size``: ``crops`` along the long side.

    A single crop is the middle one. Resizing is bilinear without smoothing, as the authors' is.
    """
    height, width = clip.shape[-2:]
    short = min(height, width)
    sides = [size if side == short else int(size * side / short) for side in (height, width)]
    clip = F.interpolate(clip, sides, mode="bilinear", align_corners=False)
    room = max(sides) - size
    starts = [room // 2] if crops == 1 else [int(i * room / (crops - 1)) for i in range(crops)]
    axis = -2 if height > width else -1
    return [clip.narrow(axis, start, size) for start in starts]


def random_crop(
    clip: Tensor,
    size: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    draws: np.random.Generator,
) -> Tensor:
    """A random part of a clip (C, T, H, W), the same of all frames, resized to squares of ``size``.

    Args:
        scale: Smallest and largest share of the area. ratio: of the width to the height.
    """
    height, width = clip.shape[-2:]
    rows, columns = height, width
    for _ in range(10):
        area = height * width * draws.uniform(*scale)
        wide = math.exp(draws.uniform(math.log(ratio[0]), math.log(ratio[1])))
        tried = round(math.sqrt(area / wide)), round(math.sqrt(area * wide))
        if 0 < tried[0] <= height and 0 < tried[1] <= width:
            rows, columns = tried
            break
    top, left = int(draws.integers(height - rows + 1)), int(draws.integers(width - columns + 1))
    part = clip[..., top : top + rows, left : left + columns]
    return F.interpolate(part, [size, size], mode="bilinear", align_corners=False)
