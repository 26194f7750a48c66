"""Two pictures of each scene, for models that make one of them: of one size, or a coarse one and a finer guide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from vimzoo.errors import UsageError
from vimzoo.pictures.reading import read_picture

from .crops import ImagePairs, Rng, readable
from .degradations import Window, imresize

__all__ = [
    "FocusPairs",
    "FusedPairs",
    "GreyGuidedPairs",
    "SharpenedPairs",
    "read_bands",
]

BLUR = 9, 2.0
"""Side and deviation, in pixels, of the Gaussian by which `FocusPairs` are out of focus."""


def read_bands(path: Path, peak: float | None = None) -> np.ndarray:
    """All bands of a picture, ``(H, W, bands)`` float32.

    Args:
        path: The file.
        peak: The number that becomes 1; None is the largest of an integer type, and 1 of another.

    Raises:
        UsageError: the file cannot be read.
    """
    with readable(path) as source:
        picture = read_picture(source)
    bands = picture.pixels
    if picture.bands is not None:
        bands = np.concatenate([bands, picture.bands], axis=2)
    whole = np.issubdtype(bands.dtype, np.integer)
    return bands.astype(np.float32) / (peak or (np.iinfo(bands.dtype).max if whole else 1.0))


class FusedPairs(ImagePairs):
    """Two pictures of a scene, ``high`` and ``low``, which a model is given in this order; its target is both.

    A sample is ``((C, H, W), (C, H, W)), (2 C, H, W)``, in 0..1.
    """

    def sample(self, parts: Sequence[np.ndarray], rng: Rng) -> tuple[Any, Tensor]:
        """See `ImagePairs.sample`."""
        other, x = super().sample(parts, rng)
        return (x, other), torch.cat([x, other])


class FocusPairs(ImagePairs):
    """Photographs, each as two with one half out of focus: first the right half, then the left one.

    A sample is as in `FusedPairs`.
    """

    def sample(self, parts: Sequence[np.ndarray], rng: Rng) -> tuple[Any, Tensor]:
        """See `ImagePairs.sample`."""
        _, sharp = super().sample(parts, rng)
        blurred = gaussian_blur(sharp, [BLUR[0]] * 2, [BLUR[1]] * 2)
        left = torch.arange(sharp.shape[2]) < sharp.shape[2] // 2
        x, other = sharp.where(left, blurred), blurred.where(left, sharp)
        return (x, other), torch.cat([x, other])


class GreyGuidedPairs(ImagePairs):
    """Colour photographs, to be sharpened with the mean of their colours in full resolution.

    A sample is ``((C, H, W), (1, scale H, scale W)), (C, scale H, scale W)``, in 0..1.
    """

    def sample(self, parts: Sequence[np.ndarray], rng: Rng) -> tuple[Any, Tensor]:
        """See `ImagePairs.sample`."""
        low, high = super().sample(parts, rng)
        return (low, high.mean(0, keepdim=True)), high


@dataclass
class SharpenedPairs(ImagePairs):
    """Images of many bands and finer ones of few; the target is the former in the latter's resolution.

    Where there is no such target, both images are reduced by ``scale``, and the one of many bands is the target (Wald
    et al. 1997). A sample is ``((C, H, W), (G, scale H, scale W)), (C, scale H, scale W)``.

    Attributes:
        guides: The finer image's file by that of the target.
        peak: As in `read_bands`.
    """

    guides: Mapping[Path, Path] = field(default_factory=dict)
    peak: float | None = None

    def files(self, index: int) -> tuple[Path, ...]:
        """See `ImagePairs.files`."""
        return (*super().files(index), self.guides[self.high[index]])

    def pixels(
        self, index: int, window: Window | None = None, rng: Rng | None = None
    ) -> tuple[np.ndarray, ...]:
        """See `ImagePairs.pixels`; ``(H, W, C)``, ``(H scale, W scale, G)`` and ``(H scale, W scale, C)`` float32."""
        window = window or Window(0, 0, *self.low_size(index))
        target = self.high[index]
        guide = self.guides[target]
        if self.low is None:
            low, fine = self._reduced(target), self._reduced(guide)
        else:
            low, fine = self._read(self.low[index]), self._read(guide)
        inner = window.slices(self.scale)
        return low[window.slices()], fine[inner], self._read(target)[inner]

    def sample(self, parts: Sequence[np.ndarray], rng: Rng) -> tuple[Any, Tensor]:
        """See `ImagePairs.sample`; numbers may be above 1."""
        x, guide, target = (torch.from_numpy(part.copy()).permute(2, 0, 1) for part in parts)
        return (x, guide), target

    def _read(self, path: Path) -> np.ndarray:
        return self.cache.get(path, lambda: read_bands(path, self.peak))

    def _reduced(self, path: Path) -> np.ndarray:
        """The image reduced by ``scale``, without what exceeds a multiple."""

        def reduced() -> np.ndarray:
            bands = self._read(path)
            height, width = (side // self.scale * self.scale for side in bands.shape[:2])
            image = torch.from_numpy(bands[:height, :width]).permute(2, 0, 1)
            return imresize(image, 1 / self.scale).permute(1, 2, 0).numpy()

        return self.cache.get((path, self.scale), reduced)


def check_sides(sizes: Mapping[Path, tuple[int, int]], multiple: int) -> None:
    """Check that pictures have a part whose sides are multiples of a number.

    Raises:
        UsageError: one does not.
    """
    for path, size in sizes.items():
        if min(size) < multiple:
            raise UsageError(f"`multiple`={multiple}: {path} is only {size[0]} x {size[1]} pixels")
