"""The loss of two pictures that are joined into one, for which there is no target."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FusionLoss", "ms_ssim"]

_TAPS, _DEVIATION = 11, 1.5
_LEVELS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity over five scales, or as many as the images are large enough for (Wang et al. 2003).

    Each scale's mean m counts as ``(1 + m) / 2``, so that images that are no more than opposites have a gradient.

    Args:
        a, b: Images ``(B, C, H, W)`` in 0..1, of at least 11 pixels.

    Returns:
        ``(B,)``, 1 for equal images.
    """
    scales = [weight for i, weight in enumerate(_LEVELS) if i == 0 or min(a.shape[2:]) >> i >= _TAPS]
    result = torch.ones(len(a), device=a.device)
    for i, weight in enumerate(scales):
        if i:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        light, contrast = _similarity(a, b)
        value = contrast if i < len(scales) - 1 else light * contrast
        result = result * ((1 + value.mean((1, 2, 3))) / 2) ** (weight / sum(scales))
    return result


def _similarity(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The two factors of structural similarity in every window, ``(B, C, H', W')``."""
    taps = torch.arange(_TAPS, device=a.device, dtype=a.dtype) - _TAPS // 2
    window = (-(taps**2) / (2 * _DEVIATION**2)).exp()
    window = window / window.sum()
    maps = torch.stack([a, b, a * a, b * b, a * b])
    flat = maps.flatten(0, 2).unsqueeze(1)
    flat = F.conv2d(F.conv2d(flat, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
    mean_a, mean_b, aa, bb, ab = flat.squeeze(1).unflatten(0, maps.shape[:3])
    light = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    contrast = (2 * (ab - mean_a * mean_b) + 9e-4) / (aa - mean_a**2 + bb - mean_b**2 + 9e-4)
    return light, contrast


def _slopes(image: Tensor) -> Tensor:
    """Absolute Sobel derivatives along both axes, summed, ``(B, C, H, W)``."""
    across = image.new_tensor(_SOBEL)
    kernels = torch.stack([across, across.T]).unsqueeze(1)
    flat = F.conv2d(image.flatten(0, 1).unsqueeze(1), kernels, padding=1)
    return flat.abs().sum(1).view_as(image)


class FusionLoss(nn.Module):
    """How far a picture is from two of one scene (Xie et al. 2024, with the weights of the authors' code).

    The sum of ``structure`` times 1 - `ms_ssim`, the mean of both; ``intensity`` times the mean squared difference from
    the larger of both pixels; and ``slope`` times the mean absolute difference of the slopes from the larger of both.

    Args:
        structure, intensity, slope: Weights.

    Raises:
        ValueError: a weight is negative.
    """

    def __init__(self, structure: float = 10.0, intensity: float = 10.0, slope: float = 1.0) -> None:
        super().__init__()
        for name, value in {"structure": structure, "intensity": intensity, "slope": slope}.items():
            if not value >= 0:
                raise ValueError(f"{name}: expected a number of at least 0, got {value}")
        self.structure, self.intensity, self.slope = structure, intensity, slope

    def forward(self, output: Tensor, both: Tensor) -> Tensor:
        """The mean over a batch.

        Args:
            output: Joined pictures ``(B, C, H, W)``.
            both: The pictures ``(B, 2 C, H, W)`` in 0..1.
        """
        x, other = both.chunk(2, dim=1)
        structure = 1 - (ms_ssim(output, x) + ms_ssim(output, other)).mean() / 2
        intensity = F.mse_loss(output, torch.maximum(x, other))
        slope = F.l1_loss(_slopes(output), torch.maximum(_slopes(x), _slopes(other)))
        return self.structure * structure + self.intensity * intensity + self.slope * slope
