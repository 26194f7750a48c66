"""Pairs of a degraded and a clean image, whole for evaluation and as random crops for training."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from .degradations import Degradation, to_image
from .splits import UsageError

__all__ = ["CropPairs", "ImagePairs", "PixelCache", "WholePairs", "image_size", "read_pixels"]

MODES = {1: "L", 3: "RGB"}
DEEP_MODES = ("I", "F")  # Pillow's 16 and 32-bit modes begin so; converting them to 8 bits would clip
TURNED = range(5, 9)  # EXIF orientations that exchange height and width


def read_pixels(path: Path, channels: int = 3) -> np.ndarray:
    """An image file as ``(H, W, channels)`` uint8, upright.

    Raises:
        UsageError: the file cannot be read, or has more than 8 bits.
    """
    try:
        with Image.open(path) as file:
            if deep := _deep_layout(file):
                raise UsageError(f"{path}: expected 8 bits a channel, got {deep}")
            pixels = np.asarray(ImageOps.exif_transpose(file).convert(MODES[channels]))
    except UsageError:
        raise
    except Exception as error:  # on damaged files the decoders raise nearly anything
        raise UsageError(f"{path}: not a readable image ({error})") from error
    return pixels.reshape(*pixels.shape[:2], channels)


def _deep_layout(file: Image.Image) -> str | None:
    """What tells that a file has more than 8 bits a channel: its mode, or how Pillow would cut its pixels to 8."""
    layouts = (tile[3] for tile in getattr(file, "tile", ()))  # a name, or a tuple that begins with it
    names = file.mode, *(str(layout[0] if isinstance(layout, tuple) else layout) for layout in layouts)
    return next((name for name in names if name.startswith(DEEP_MODES) or ";16" in name), None)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file as `read_pixels` gives it, from its header alone.

    Raises:
        UsageError: the file is no image.
    """
    try:
        with Image.open(path) as file:
            width, height = file.size
            turned = file.getexif().get(0x0112) in TURNED
    except Exception as error:
        raise UsageError(f"{path}: not a readable image ({error})") from error
    return (width, height) if turned else (height, width)


class PixelCache:
    """Arrays by key, the longest unused forgotten once they take more than ``limit`` bytes together."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self.kept: OrderedDict[Hashable, np.ndarray] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array kept under ``key``, or what ``make`` gives."""
        if key not in self.kept:
            self.kept[key] = make()
            self.bytes += self.kept[key].nbytes
        self.kept.move_to_end(key)
        while self.bytes > self.limit and len(self.kept) > 1:
            self.bytes -= self.kept.popitem(last=False)[1].nbytes
        return self.kept[key]


@dataclass
class ImagePairs:
    """Clean images and what they are to be restored from: another file, or what ``degradation`` makes of them.

    Attributes:
        high: files of the clean images.
        low: files of the degraded ones in the same order; None degrades the clean ones.
        degradation: what is done to the clean images where there is no ``low``.
        scale: clean pixels per degraded pixel and axis.
        channels: 3 reads colour, 1 grey.
        cache: decoded images; every process that loads has its own.
    """

    high: Sequence[Path]
    low: Sequence[Path] | None
    degradation: Degradation | None
    scale: int
    channels: int = 3
    cache: PixelCache = field(default_factory=lambda: PixelCache(1 << 30), repr=False)

    def __len__(self) -> int:
        return len(self.high)

    def pixels(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Both images, ``(H, W, C)`` and ``(H scale, W scale, C)`` uint8, before noise and JPEG.

        A clean image is cut at the right and below to a multiple of ``scale``.

        Raises:
            UsageError: a file cannot be read.
        """
        high = low = self._read(self.high[index])
        if self.low is not None:
            low = self._read(self.low[index])
        elif self.degradation is not None:
            height, width = (side // self.scale * self.scale for side in high.shape[:2])
            reduce, whole = self.degradation.reduced, high[:height, :width]
            low = self.cache.get((self.high[index], self.scale), lambda: reduce(whole))
        return low, high[: low.shape[0] * self.scale, : low.shape[1] * self.scale]

    def spoiled(self, low: Tensor, rng: np.random.Generator | np.random.RandomState) -> Tensor:
        """The degraded image with its noise and JPEG, which are drawn anew for every crop."""
        return low if self.degradation is None else self.degradation.spoiled(low, rng)

    def _read(self, path: Path) -> np.ndarray:
        return self.cache.get(path, lambda: read_pixels(path, self.channels))


class WholePairs(Dataset):
    """Whole pairs of images ``(C, H, W)`` and ``(C, H scale, W scale)`` in 0..1, for evaluation.

    They differ in size, so batches are of one. Noise is that of the published protocol, the same in every evaluation.
    """

    def __init__(self, pairs: ImagePairs, crop: int | None = None) -> None:
        """``crop``: at most so many clean pixels per axis, from the middle; None takes everything."""
        self.pairs, self.crop = pairs, crop

    @property
    def names(self) -> list[str]:
        """Names of the clean images."""
        return [path.stem for path in self.pairs.high]

    def part(self, places: Sequence[int]) -> "WholePairs":
        """Some of the pairs, in the order of ``places``."""
        low = self.pairs.low and [self.pairs.low[place] for place in places]
        high = [self.pairs.high[place] for place in places]
        return WholePairs(replace(self.pairs, low=low, high=high), self.crop)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        low, high = self.pairs.pixels(index)
        if self.crop is not None:
            size = self.crop // self.pairs.scale
            top, left = (max(0, side - size) // 2 for side in low.shape[:2])
            low, high = _window(low, high, top, left, size)
        return self.pairs.spoiled(to_image(low), np.random.RandomState(0)), to_image(high)


class CropPairs(Dataset):
    """Random crops of the pairs, flipped and turned, indexed by ``(epoch, index)``: nothing else decides them.

    A key ``(epoch, index, size, size)`` asks for crops of that size, and its index counts those of the whole run.
    Images ``(C, size / scale, size / scale)`` and ``(C, size, size)`` in 0..1.
    """

    def __init__(self, pairs: ImagePairs, size: int, count: int, aug: Mapping[str, Any], seed: int) -> None:
        """
        Args:
            size: side of a clean crop, a multiple of the scale and within every image.
            count: crops per epoch; successive ones are of successive images.
            aug: ``flip``: exchange left and right, ``rotate``: also turn by quarters; each in half of the crops.
        """
        self.pairs, self.size, self.count, self.seed = pairs, size, count, seed
        self.flip, self.rotate = bool(aug.get("flip")), bool(aug.get("rotate"))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        epoch, index, *shape = key
        rng = np.random.default_rng([self.seed, epoch, index])
        low, high = self.pairs.pixels((index if shape else epoch * self.count + index) % len(self.pairs))
        size = (shape[0] if shape else self.size) // self.pairs.scale
        top, left = (int(rng.integers(side - size + 1)) for side in low.shape[:2])
        mirror, upside, across = rng.integers(2, size=3) * (self.flip, self.rotate, self.rotate)
        low, high = (_turned(part, mirror, upside, across) for part in _window(low, high, top, left, size))
        return self.pairs.spoiled(to_image(low), rng), to_image(high)


def _window(
    low: np.ndarray, high: np.ndarray, top: int, left: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The part of both images that begins at ``top``, ``left`` of ``low`` and is ``size`` of its pixels wide."""
    scale = high.shape[0] // low.shape[0]
    inner = np.s_[top * scale : (top + size) * scale, left * scale : (left + size) * scale]
    return low[top : top + size, left : left + size], high[inner]


def _turned(pixels: np.ndarray, mirror: int, upside: int, across: int) -> np.ndarray:
    """One of the eight symmetries of a square."""
    pixels = pixels[:, ::-1] if mirror else pixels
    pixels = pixels[::-1] if upside else pixels
    return pixels.swapaxes(0, 1) if across else pixels
