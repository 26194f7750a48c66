"""Samples of images and masks: augmented crops for training, whole ones for evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from vimzoo.errors import UsageError

from ..pairs.crops import PixelCache, read_pixels
from .codes import Codes
from .reading import Mask, read_mask
from .volumes import Slice, cut, grid_of, labels_of, pixels_of, slice_of

__all__ = [
    "AUGMENTATIONS",
    "Case",
    "EvaluatedMasks",
    "MaskPairs",
    "TrainedMasks",
    "checked_augmentation",
    "resized_mask",
]

Size = tuple[int, int]  # height, width
AUGMENTATIONS: dict[str, Any] = {
    "scale": (1.0, 1.0), "rotate": 0.0, "hflip": 0.0, "vflip": 0.0, "turn": False, "brightness": 0.0, "contrast": 0.0,
}  # fmt: skip
"""What `TrainedMasks` takes, with values that change nothing."""


def checked_augmentation(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The augmentations with defaults.

    Raises:
        UsageError: there is no such augmentation, or a range is none.
    """
    if strange := set(given or {}) - set(AUGMENTATIONS):
        raise UsageError(
            f"`aug`: masks take {', '.join(AUGMENTATIONS)}, not {', '.join(sorted(map(str, strange)))}"
        )
    aug = {**AUGMENTATIONS, **(given or {})}
    low, high = aug["scale"]
    if not 0 < low <= high:
        raise UsageError(f"`aug`: scale={aug['scale']}; expected two factors above 0, the smaller one first")
    return aug


def resized_mask(mask: np.ndarray, size: Size) -> np.ndarray:
    """A mask (H, W) of another size; each pixel takes the value at its centre.

    The nearest pixel by the upper left corner, as torch's ``nearest`` has it, shifts masks by up to half a pixel.
    """
    places = [
        ((np.arange(wanted) + 0.5) * side / wanted).astype(np.int64)
        for wanted, side in zip(size, mask.shape, strict=True)
    ]
    return mask[np.ix_(*places)]


@dataclass
class MaskPairs:
    """Images and masks in files.

    Attributes:
        images, masks: Files, in the same order.
        codes: What the masks' values mean.
        classes: Number of classes.
        mean, std: Of the normalisation, one number per channel.
        cache: Decoded files; every process that loads has its own.
        window: Intensities of volumes that become black and white, see `pixels_of`.
    """

    images: Sequence[Path]
    masks: Sequence[Path]
    codes: Codes
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    cache: PixelCache = field(default_factory=lambda: PixelCache(1 << 30), repr=False)
    window: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, C) uint8 and class numbers (H, W) int32.

        Raises:
            UsageError: a file cannot be read.
        """
        image, mask = self.images[index], self.masks[index]
        if (place := slice_of(image)) is not None and (marks := slice_of(mask)) is not None:
            return self._slice(place, marks)
        return self.cache.get(image, lambda: read_pixels(image, len(self.mean))), self.cache.get(
            mask, lambda: self._class_numbers(mask)
        )

    def _slice(self, image: Slice, mask: Slice) -> tuple[np.ndarray, np.ndarray]:
        """Of volumes, which are decoded whole."""
        whole = self.cache.get(image.volume, lambda: pixels_of(image.volume, self.window))
        pixels = cut(whole, image.plane, image.number)[..., None].repeat(len(self.mean), axis=2)
        numbers = self.cache.get(mask.volume, lambda: self._numbers_of_volume(mask.volume))
        return pixels, np.ascontiguousarray(cut(numbers, mask.plane, mask.number))

    def _numbers_of_volume(self, path: Path) -> np.ndarray:
        ids = self.codes.ids(Mask(labels_of(path), 16), path)
        return self.codes.numbers_of(ids, self.classes, path)

    def _class_numbers(self, path: Path) -> np.ndarray:
        ids = self.codes.ids(read_mask(path, self.codes.colours is not None), path)
        return self.codes.numbers_of(ids, self.classes, path)

    def normalised(self, pixels: np.ndarray) -> Tensor:
        """Pixels (H, W, C) in 0..255 -> float32 image (C, H, W)."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255 - mean) / std

    def part(self, places: Sequence[int]) -> MaskPairs:
        """Some of the pairs, in the order of ``places``."""
        images, masks = ([files[place] for place in places] for files in (self.images, self.masks))
        return replace(self, images=images, masks=masks)


class Case(NamedTuple):
    """A volume whose slices are scored together.

    Attributes:
        name: Of the file.
        spacing: Distances of slices, rows and columns, in mm.
    """

    name: str
    spacing: tuple[float, float, float]


class EvaluatedMasks(Dataset):
    """Images (C, H, W) and whole masks (H, W) int64, for evaluation.

    Args:
        pairs: The files.
        shapes: Height and width of each mask.
        size: What images are resized to; None leaves them. Masks keep their size, at which they are scored.
    """

    def __init__(self, pairs: MaskPairs, shapes: Sequence[Size], size: Size | None) -> None:
        self.pairs, self.shapes, self.size = pairs, list(shapes), size

    @property
    def names(self) -> list[str]:
        """Names of the images; of slices those of their volumes, too."""
        return [
            f"{path.parent.name}/{path.name}" if slice_of(path) else path.name for path in self.pairs.images
        ]

    @property
    def cases(self) -> list[Case] | None:
        """The volume of each image; None where images are no slices."""
        found: dict[tuple[Path, str], Case] = {}
        cases = []
        for path in self.pairs.images:
            if (place := slice_of(path)) is None:
                return None
            key = place.volume, place.plane
            if key not in found:
                found[key] = Case(place.volume.name, grid_of(place.volume).spacing_of(place.plane))
            cases.append(found[key])
        return cases

    def part(self, places: Sequence[int]) -> EvaluatedMasks:
        """Some of the images, in the order of ``places``."""
        return EvaluatedMasks(self.pairs.part(places), [self.shapes[place] for place in places], self.size)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels, mask = self.pairs.pixels(index)
        if self.size is not None:
            pixels = resized_pixels(pixels, self.size)
        return self.pairs.normalised(pixels), torch.from_numpy(mask.astype(np.int64))


class TrainedMasks(Dataset):
    """Augmented images (C, *size) and masks (*size) int64, fully determined by the key ``(epoch, index)``.

    Pixels beyond the image are 0 after normalisation, and ignored in the mask.

    Args:
        pairs: The files.
        size: Height and width of the samples.
        resize: Whether images are resized to ``size`` first; otherwise samples are crops at the images' resolution.
        aug: See `checked_augmentation`.
        seed: Of the augmentation.
    """

    def __init__(self, pairs: MaskPairs, size: Size, resize: bool, aug: Mapping[str, Any], seed: int) -> None:
        self.pairs, self.size, self.resize, self.seed = pairs, size, resize, seed
        self.aug = {**AUGMENTATIONS, **aug}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, *key])
        pixels, mask = self.pairs.pixels(key[1])
        low, high = map(math.log, self.aug["scale"])
        zoom = math.exp(rng.uniform(low, high))
        shape = self.size if self.resize else mask.shape
        target = max(1, round(shape[0] * zoom)), max(1, round(shape[1] * zoom))
        if target != mask.shape:
            pixels, mask = resized_pixels(pixels, target), resized_mask(mask, target)
        ignore = self.pairs.codes.ignore_index
        if self.aug["rotate"]:
            pixels, mask = _rotated(
                pixels, mask, rng.uniform(-1, 1) * self.aug["rotate"], ignore, self.pairs.mean
            )
        room = [have - want for have, want in zip(mask.shape, self.size, strict=True)]
        corner = [int(rng.integers(max(0, free) + 1)) for free in room]
        shift = [int(rng.integers(max(0, -free) + 1)) for free in room]
        cut = tuple(slice(at, at + want) for at, want in zip(corner, self.size, strict=True))
        image = _placed(self._coloured(self.pairs.normalised(pixels[cut]), rng), self.size, shift, 0.0)
        target_mask = torch.from_numpy(mask[cut].astype(np.int64))
        return _turned(image, _placed(target_mask, self.size, shift, ignore), rng, self.aug)

    def _coloured(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Contrast about the image's mean, and brightness in deviations of the normalisation."""
        contrast = 1 + rng.uniform(-1, 1) * self.aug["contrast"]
        mean = image.mean()
        return (image - mean) * contrast + mean + rng.uniform(-1, 1) * self.aug["brightness"]


def resized_pixels(pixels: np.ndarray, size: Size) -> np.ndarray:
    """An image (H, W, C) uint8 of another size, antialiased."""
    if pixels.shape[:2] == size:
        return pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR)).reshape(*size, pixels.shape[2])


def _rotated(
    pixels: np.ndarray, mask: np.ndarray, degrees: float, ignore: int, mean: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    grey = pixels.shape[2] == 1
    fill = tuple(round(255 * value) for value in mean)
    image = Image.fromarray(pixels[..., 0] if grey else pixels)
    turned = image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=fill[0] if grey else fill)
    marks = Image.fromarray(mask.astype(np.int32)).rotate(degrees, Image.Resampling.NEAREST, fillcolor=ignore)
    return np.asarray(turned).reshape(pixels.shape), np.asarray(marks)


def _placed(values: Tensor, size: Size, shift: Sequence[int], fill: float) -> Tensor:
    """Values (..., h, w) at a place within (..., *size), which is filled around them."""
    height, width = values.shape[-2:]
    if (height, width) == size:
        return values
    whole = values.new_full((*values.shape[:-2], *size), fill)
    whole[..., shift[0] : shift[0] + height, shift[1] : shift[1] + width] = values
    return whole


def _turned(
    image: Tensor, mask: Tensor, rng: np.random.Generator, aug: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """Flips and quarter turns; of oblong samples half turns."""
    flips = [axis for axis, name in ((-1, "hflip"), (-2, "vflip")) if rng.random() < aug[name]]
    quarters = int(rng.integers(4)) if aug["turn"] else 0
    if mask.shape[0] != mask.shape[1]:
        quarters = quarters // 2 * 2
    image, mask = (part.flip(flips).rot90(quarters, (-2, -1)) for part in (image, mask))
    return image.contiguous(), mask.contiguous()
