"""Explanatory plots: scan paths, and which regions of an image drive a model's prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .ops import ScanPath

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LATEST = 0.9
"""Position of the last step in the colour map, whose end is too pale on white."""


def draw_path(axes: Axes, path: ScanPath, height: int, width: int) -> None:
    """One path: a dot per token, an arrow head per step, coloured by time; a pad interrupts the line.

    Args:
        axes: Axes to draw on; tokens have whole coordinates, the first is at (0, 0), rows go down.
        height, width: The grid.
    """
    import matplotlib.pyplot as plt
    from matplotlib.collections import LineCollection

    time = plt.get_cmap("plasma")
    steps = path.walk(height, width)
    grid = np.stack(np.divmod(np.arange(height * width), width)[::-1], 1)
    axes.scatter(grid[:, 0], grid[:, 1], s=10, color="0.85", zorder=1)
    cells = grid[steps].astype(float)
    ages = LATEST * np.arange(len(steps)) / max(len(steps) - 1, 1)
    real = steps >= 0
    joined = real[1:] & real[:-1]
    lines = np.stack([cells[:-1], cells[1:]], 1)[joined]
    axes.add_collection(LineCollection(list(lines), colors=time(ages[:-1][joined]), linewidths=1.6, zorder=2))
    along = lines[:, 1] - lines[:, 0]
    along = 0.36 * along / np.linalg.norm(along, axis=1, keepdims=True)
    axes.quiver(
        *lines.mean(1).T, *along.T, color=time(ages[:-1][joined]), pivot="mid", zorder=3,
        angles="xy", scale_units="xy", units="xy", scale=1, width=0.06, headwidth=5, headlength=6, headaxislength=6,
    )  # fmt: skip
    axes.scatter(cells[real, 0], cells[real, 1], s=14, c=time(ages[real]), zorder=4)
    start = cells[real][0]
    axes.scatter(start[0], start[1], s=70, facecolors="none", edgecolors=time(0.0), linewidths=1.5, zorder=5)
    axes.set(xlim=(-0.7, width - 0.3), ylim=(height - 0.3, -0.7), aspect="equal")
    axes.axis("off")


def attribution(
    model: nn.Module, images: Tensor, classes: Tensor, samples: int = 8, noise: float = 0.1, blur: int = 9
) -> Tensor:
    """Saliency of each image: the magnitude of the gradient of its class's logit, averaged over noisy copies.

    SmoothGrad (Smilkov et al. 2017, section 3) of any classifier. The noise is drawn from a generator of its own.

    Args:
        model: From ``(B, C, H, W)`` to logits ``(B, classes)``.
        images: ``(B, C, H, W)``.
        classes: ``(B,)``, int64.
        samples: Noisy copies.
        noise: Their standard deviation, as a share of the image's range of values.
        blur: Side in pixels, odd, of the square that the map is averaged over.

    Returns:
        ``(B, H, W)``, each scaled to 0..1.

    Raises:
        ValueError: ``samples`` is below 1, or ``blur`` even.
    """
    if samples < 1 or blur % 2 == 0:
        raise ValueError(f"samples, blur: expected at least 1 and an odd number, got {samples} and {blur}")
    generator = torch.Generator(images.device).manual_seed(0)
    spread = noise * (images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True))
    total = torch.zeros_like(images)
    for _ in range(samples):
        drawn = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
        noisy = (images + spread * drawn).requires_grad_()
        with torch.enable_grad():
            logits = model(noisy).gather(1, classes[:, None]).sum()
        total += torch.autograd.grad(logits, noisy)[0].abs()
    blurred = F.avg_pool2d(total.sum(1, keepdim=True), blur, 1, blur // 2, count_include_pad=False)[:, 0]
    low, high = blurred.amin((1, 2), keepdim=True), blurred.amax((1, 2), keepdim=True)
    return (blurred - low) / (high - low).clamp(min=torch.finfo(blurred.dtype).tiny)
