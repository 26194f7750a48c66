"""What is done to clean images to learn from: MATLAB's bicubic reduction, Gaussian noise, JPEG.

Images are tensors ``(C, H, W)`` in 0..1.
"""

import io
import math
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..metrics import to_8bit
from .splits import UsageError

__all__ = ["Degradation", "add_noise", "imresize", "jpeg", "to_image"]


def to_image(pixels: np.ndarray) -> Tensor:
    """Pixels ``(H, W, C)`` uint8 -> float32 image ``(C, H, W)`` in 0..1."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -0.5 (IEEE Trans. ASSP 29, 1981), zero beyond 2."""
    x = x.abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, near, torch.where(x <= 2, far, 0.0))


def _taps(size: int, scale: float) -> tuple[Tensor, Tensor]:
    """Source positions and float64 weights of every target position along one axis, both (targets, taps).

    A reduction widens the kernel by 1 / scale (antialiasing). Beyond the border the axis is mirrored, the border
    pixel repeated.
    """
    shrink = min(scale, 1.0)
    targets, taps = math.ceil(size * scale), math.ceil(4 / shrink) + 2
    centre = (torch.arange(targets, dtype=torch.float64) + 0.5) / scale - 0.5
    positions = (centre - 2 / shrink).floor()[:, None] + torch.arange(taps)
    weights = _cubic((centre[:, None] - positions) * shrink)
    mirrored = positions.long() % (2 * size)
    return torch.minimum(mirrored, 2 * size - 1 - mirrored), weights / weights.sum(1, keepdim=True)


def imresize(image: Tensor, scale: float) -> Tensor:
    """MATLAB's ``imresize(image, scale)``: bicubic, antialiased when it reduces; the papers' low resolution.

    torch's and Pillow's antialiased bicubic differ from it at the borders and where the size is no multiple.

    Args:
        image: ``(..., H, W)``, floating point; not clipped or rounded.
        scale: Target pixels per source pixel and axis.

    Returns:
        ``(..., ceil(H scale), ceil(W scale))`` of the same type.

    Raises:
        ValueError: ``scale`` is not positive, or the image not floating point.
    """
    if not scale > 0:
        raise ValueError(f"scale={scale}: expected a positive number")
    if not image.is_floating_point():
        raise ValueError(f"image: expected a floating-point type, got {image.dtype}")
    for axis in (-2, -1):
        source, weights = _taps(image.shape[axis], scale)
        source, weights = source.to(image.device), weights.to(image)
        parts = image.movedim(axis, -1)
        taken = (parts[..., at] * weight for at, weight in zip(source.T, weights.T, strict=True))
        image = reduce(torch.add, taken).movedim(-1, axis)
    return image


def add_noise(image: Tensor, sigma: float, rng: np.random.Generator | np.random.RandomState) -> Tensor:
    """White Gaussian noise of deviation ``sigma`` / 255, not clipped.

    ``RandomState(0)`` for every image is the published protocol: drawn pixel by pixel, blue channel first.
    """
    noise = rng.normal(0, sigma / 255, (*image.shape[1:], image.shape[0]))[..., ::-1]
    return image + torch.from_numpy(noise.copy()).permute(2, 0, 1).to(image)


def jpeg(image: Tensor, quality: int) -> Tensor:
    """The image after libjpeg's coding at ``quality`` 1..100 (colour at half resolution) and decoding."""
    pixels, file = to_8bit(image), io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(file, "JPEG", quality=quality)
    decoded = np.asarray(Image.open(file))
    return to_image(decoded[..., None] if decoded.ndim == 2 else decoded).to(image)


@dataclass(frozen=True)
class Degradation:
    """What makes the input of a network from a clean image; parts that are set are applied in this order.

    Attributes:
        scale: Reduce by this whole number with `imresize`, rounded to 8 bits as in a file; 1 does not.
        sigma: Gaussian noise, in 1/255; 0 adds none.
        quality: JPEG quality, None is no JPEG.

    Raises:
        UsageError: a value out of range, or nothing to do.
    """

    scale: int = 1
    sigma: float = 0.0
    quality: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.scale, int) or self.scale < 1:
            raise UsageError(f"data.scale={self.scale}: expected a whole number from 1 on")
        if self.sigma < 0:
            raise UsageError(f"data.sigma={self.sigma}: expected 0 or more (in 1/255)")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise UsageError(f"data.quality={self.quality}: expected 1 to 100, or null for no JPEG")
        if (self.scale, self.sigma, self.quality) == (1, 0, None):
            raise UsageError("nothing to restore: expected data.sigma, data.scale or data.quality")

    def reduced(self, pixels: np.ndarray) -> np.ndarray:
        """Whole clean image ``(H, W, C)`` uint8, sides in multiples of ``scale``, at low resolution."""
        return pixels if self.scale == 1 else to_8bit(imresize(to_image(pixels), 1 / self.scale))

    def spoiled(self, image: Tensor, rng: np.random.Generator | np.random.RandomState) -> Tensor:
        """Noise and JPEG on an image of low resolution, whole or a part."""
        if self.sigma > 0:
            image = add_noise(image, self.sigma, rng)
        return image if self.quality is None else jpeg(image, self.quality)
