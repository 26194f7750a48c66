"""Synthetic degradations: MATLAB's bicubic reduction, Gaussian noise, JPEG.

Images are tensors ``(C, H, W)`` in 0..1.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vimzoo.errors import UsageError
from vimzoo.metrics import to_8bit

__all__ = ["Degradation", "Window", "add_noise", "imresize", "jpeg", "to_image"]

JPEG_BLOCK = 16  # pixels: two blocks of 8, as colour is coded at half the resolution


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
    """MATLAB's ``imresize(image, scale)``: bicubic, antialiased when reducing; how papers make low-resolution images.

    torch's and Pillow's antialiased bicubic differ from it at the borders and if the scale does not divide the size.

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
    """Add white Gaussian noise of standard deviation ``sigma`` / 255; not clipped.

    ``RandomState(0)`` for every image is the published protocol: drawn pixel by pixel, blue channel first.
    """
    noise = rng.normal(0, sigma / 255, (*image.shape[1:], image.shape[0]))[..., ::-1]
    return image + torch.from_numpy(noise.copy()).permute(2, 0, 1).to(image)


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Encode as JPEG with libjpeg at ``quality`` 1..100 (4:2:0 chroma) and decode."""
    pixels, file = to_8bit(image), io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(file, "JPEG", quality=quality)
    decoded = np.asarray(Image.open(file))
    return to_image(decoded[..., None] if decoded.ndim == 2 else decoded).to(image)


class Window(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def slices(self, scale: int = 1) -> tuple[slice, slice]:
        """Of rows and columns, in an image ``scale`` times as large."""
        bottom, right = self.top + self.height, self.left + self.width
        return slice(self.top * scale, bottom * scale), slice(self.left * scale, right * scale)

    def widened(self, margin: int, grid: int, height: int, width: int) -> Window:
        """Extended by ``margin`` pixels per side and aligned to a ``grid``, within an image of this size."""
        top, left = (max(0, (edge - margin) // grid * grid) for edge in self[:2])
        bottom = min(height, -(-(self.top + self.height + margin) // grid) * grid)
        right = min(width, -(-(self.left + self.width + margin) // grid) * grid)
        return Window(top, left, bottom - top, right - left)

    def within(self, other: Window) -> Window:
        """The same part relative to another window's corner."""
        return self._replace(top=self.top - other.top, left=self.left - other.left)


@dataclass(frozen=True)
class Degradation:
    """Makes a network's input from a clean image; the steps that are set are applied in this order.

    Attributes:
        scale: Reduce by this whole number with `imresize`, rounded to 8 bits as in a file; 1 does not.
        sigma: Gaussian noise, in 1/255; 0 adds none. Of a range ``(low, high)`` every training crop draws its own
            level, and evaluation takes the middle.
        quality: JPEG quality, None is no JPEG.
        rounded: Clip and round noisy images to 8 bits, as a file would hold them; the published recipes do not.
            JPEG does in any case.

    Raises:
        UsageError: a value out of range, or nothing to do.
    """

    scale: int = 1
    sigma: float | Sequence[float] = 0.0
    quality: int | None = None
    rounded: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.scale, int) or self.scale < 1:
            raise UsageError(f"`scale`={self.scale}: expected a whole number from 1 on")
        levels = self.levels
        if len(levels) != 2 or not 0 <= levels[0] <= levels[1]:
            raise UsageError(
                f"`sigma`={self.sigma}: expected 0 or more (in 1/255), or a range [low, high] of such levels"
            )
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise UsageError(f"`quality`={self.quality}: expected 1 to 100, or `None` for no JPEG")
        if (self.scale, levels[1], self.quality) == (1, 0, None):
            raise UsageError("nothing to restore: expected `sigma`, `scale` or `quality`")

    @property
    def levels(self) -> tuple[float, ...]:
        """The lowest and the highest level of the noise."""
        return tuple(self.sigma) if isinstance(self.sigma, Sequence) else (self.sigma, self.sigma)

    def evaluated(self) -> Degradation:
        """With the middle of a range of noise, so that every evaluation is of the same images."""
        return replace(self, sigma=sum(self.levels) / 2)

    def _with_noise(self, image: Tensor, rng: np.random.Generator | np.random.RandomState) -> Tensor:
        low, high = self.levels
        level = low if low == high else float(rng.uniform(low, high))
        return add_noise(image, level, rng) if level > 0 else image

    def reduced(self, pixels: np.ndarray, window: Window | None = None) -> np.ndarray:
        """A part of a clean image at low resolution, equal in every pixel to that of the whole image reduced.

        Args:
            pixels: The clean image ``(H, W, C)`` uint8, sides in multiples of ``scale``.
            window: The part, in pixels of low resolution; None is the whole.

        Returns:
            ``(height, width, C)`` uint8 of the window's size.
        """
        window = window or Window(0, 0, pixels.shape[0] // self.scale, pixels.shape[1] // self.scale)
        if self.scale == 1:
            return pixels[window.slices()]
        # A pixel is the mean of less than 4 of its size to each side; beyond the border the image is mirrored.
        wide = window.widened(4, 1, pixels.shape[0] // self.scale, pixels.shape[1] // self.scale)
        low = to_8bit(imresize(to_image(pixels[wide.slices(self.scale)]), 1 / self.scale))
        return low[window.within(wide).slices()]

    def coded(
        self,
        pixels: Callable[[Window], np.ndarray],
        window: Window,
        size: tuple[int, int],
        rng: np.random.Generator | np.random.RandomState,
    ) -> np.ndarray:
        """A part of an image after noise and JPEG, identical to that part of the whole image encoded.

        Blocks are those of the whole image, so that they begin anywhere in a window, as in files that are cut.

        Args:
            pixels: Gives a window of the image, ``(height, width, C)`` uint8.
            window: The part wanted.
            size: Height and width of the image.
            rng: Of the noise.
        """
        if self.quality is None:
            return pixels(window)
        wide = window.widened(JPEG_BLOCK, JPEG_BLOCK, *size)  # the decoder smooths colours across blocks
        image = self._with_noise(to_image(pixels(wide)), rng)
        return to_8bit(jpeg(image, self.quality))[window.within(wide).slices()]

    def noisy(self, image: Tensor, rng: np.random.Generator | np.random.RandomState) -> Tensor:
        """Add the noise to an image or part, unless it was added before JPEG."""
        if self.levels[1] == 0 or self.quality is not None:
            return image
        image = self._with_noise(image, rng)
        return to_image(to_8bit(image)) if self.rounded else image
