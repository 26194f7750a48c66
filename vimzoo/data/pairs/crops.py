"""Pairs of degraded and clean images: whole for evaluation, random crops for training."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from vimzoo.errors import UsageError

from ..images.decode import DAMAGED, MODES, read_image, size_of
from .degradations import Degradation, Window, to_image
from .stored import opened

Rng = np.random.Generator | np.random.RandomState

__all__ = ["CropPairs", "ImagePairs", "PixelCache", "WholePairs", "image_size", "read_pixels", "readable"]


def read_pixels(path: Path, channels: int = 3) -> np.ndarray:
    """Read an image file, or one in a database, as ``(H, W, channels)`` uint8, upright.

    More bits are scaled to 8, see `read_image`.

    Raises:
        UsageError: the file cannot be read, or its pixels have no known range.
    """
    with readable(path) as source:
        pixels = np.asarray(read_image(source, MODES[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image as `read_pixels` returns it, from the file header.

    Raises:
        UsageError: the file is no image.
    """
    with readable(path, buffering=0) as source:  # a buffer would read what is skipped
        return size_of(source)


@contextmanager
def readable(path: Path, buffering: int = -1) -> Iterator[BinaryIO]:
    """Open an image file; errors name it."""
    try:
        with opened(path, buffering) as source:
            yield source
    except UsageError:
        raise
    except (*DAMAGED, MemoryError) as error:
        raise UsageError(f"{path}: not a readable image ({error})") from error


class PixelCache:
    """LRU cache of arrays, up to ``limit`` bytes in total."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self.kept: OrderedDict[Hashable, np.ndarray] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array cached under ``key``, or the result of ``make()``, which is then cached."""
        if key not in self.kept:
            self.kept[key] = make()
            self.bytes += self.kept[key].nbytes
        self.kept.move_to_end(key)
        while self.bytes > self.limit and len(self.kept) > 1:
            self.bytes -= self.kept.popitem(last=False)[1].nbytes
        return self.kept[key]


@dataclass
class ImagePairs:
    """Clean images and their degraded versions: another file, or the result of ``degradation``.

    Attributes:
        high: files of the clean images.
        low: files of the degraded ones in the same order; None degrades the clean ones.
        degradation: what is done to the clean images where there is no ``low``.
        scale: clean pixels per degraded pixel and axis.
        channels: 3 reads colour, 1 grey.
        cache: decoded images; every process that loads has its own.
        multiple: sides of evaluated degraded images are multiples of it.
    """

    high: Sequence[Path]
    low: Sequence[Path] | None
    degradation: Degradation | None
    scale: int
    channels: int = 3
    cache: PixelCache = field(default_factory=lambda: PixelCache(1 << 30), repr=False)
    multiple: int = 1

    def __len__(self) -> int:
        return len(self.high)

    def files(self, index: int) -> tuple[Path, ...]:
        """The files of a pair."""
        return (self.high[index],) if self.low is None else (self.low[index], self.high[index])

    def low_size(self, index: int) -> tuple[int, int]:
        """Height and width of the degraded image; a clean one counts up to a multiple of ``scale``.

        Raises:
            UsageError: a file cannot be read.
        """
        if self.low is not None:
            height, width = self._read(self.low[index]).shape[:2]
            return height, width
        height, width = self._read(self.high[index]).shape[:2]
        return height // self.scale, width // self.scale

    def pixels(
        self, index: int, window: Window | None = None, rng: Rng | None = None
    ) -> tuple[np.ndarray, ...]:
        """Both images or a part of them, ``(H, W, C)`` and ``(H scale, W scale, C)`` uint8, for `sample`.

        Only this part and its surroundings are degraded.

        Args:
            index: Which pair.
            window: The part, in pixels of the degraded image; None is the whole.
            rng: Of noise that comes before JPEG.

        Raises:
            UsageError: a file cannot be read.
        """
        height, width = self.low_size(index)
        window = window or Window(0, 0, height, width)
        high = self._read(self.high[index])
        if self.low is not None:
            low = self._read(self.low[index])[window.slices()]
        elif (degradation := self.degradation) is not None:
            whole = high[: height * self.scale, : width * self.scale]
            rng = rng or np.random.RandomState(0)
            low = degradation.coded(partial(degradation.reduced, whole), window, (height, width), rng)
        else:
            low = high[window.slices()]
        return low, high[window.slices(self.scale)]

    def sample(self, parts: Sequence[np.ndarray], rng: Rng) -> tuple[Any, Tensor]:
        """What `pixels` returns -> what a model is given, and its target, ``(C, H, W)`` in 0..1.

        The noise of the degradation is added, drawn for each crop.
        """
        low, high = (to_image(part) for part in parts)
        return (low if self.degradation is None else self.degradation.noisy(low, rng)), high

    def part(self, places: Sequence[int]) -> "ImagePairs":
        """Some of the pairs, in the order of ``places``."""
        low = self.low and [self.low[place] for place in places]
        return replace(self, low=low, high=[self.high[place] for place in places])

    def _read(self, path: Path) -> np.ndarray:
        return self.cache.get(path, lambda: read_pixels(path, self.channels))


class WholePairs(Dataset):
    """Whole pairs of images ``(C, H, W)`` and ``(C, H scale, W scale)`` in 0..1, for evaluation.

    They differ in size, so batches are of one. Noise is that of the published protocol, the same in every evaluation.
    """

    def __init__(self, pairs: ImagePairs, crop: int | None = None) -> None:
        """``crop``: at most this many clean pixels per axis, from the middle; None is the whole image."""
        self.pairs, self.crop = pairs, crop

    @property
    def names(self) -> list[str]:
        """Names of the clean images."""
        return [path.stem for path in self.pairs.high]

    def part(self, places: Sequence[int]) -> "WholePairs":
        """Some of the pairs, in the order of ``places``."""
        return WholePairs(self.pairs.part(places), self.crop)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        rng, sides, step = np.random.RandomState(0), self.pairs.low_size(index), self.pairs.multiple
        largest = max(sides) if self.crop is None else self.crop // self.pairs.scale
        height, width = (min(side, largest) // step * step for side in sides)
        window = Window((sides[0] - height) // 2, (sides[1] - width) // 2, height, width)
        return self.pairs.sample(self.pairs.pixels(index, window, rng), rng)


class CropPairs(Dataset):
    """Random crops of the pairs, flipped and rotated; fully determined by the key ``(epoch, index)``.

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

    def __getitem__(self, key: tuple[int, ...]) -> tuple[Any, Tensor]:
        epoch, index, *shape = key
        rng = np.random.default_rng([self.seed, epoch, index])
        which = (index if shape else epoch * self.count + index) % len(self.pairs)
        size = (shape[0] if shape else self.size) // self.pairs.scale
        top, left = (int(rng.integers(side - size + 1)) for side in self.pairs.low_size(which))
        mirror, upside, across = rng.integers(2, size=3) * (self.flip, self.rotate, self.rotate)
        pair = self.pairs.pixels(which, Window(top, left, size, size), rng)
        return self.pairs.sample([_turned(part, mirror, upside, across) for part in pair], rng)


def _turned(pixels: np.ndarray, mirror: int, upside: int, across: int) -> np.ndarray:
    """One of the eight symmetries of a square."""
    pixels = pixels[:, ::-1] if mirror else pixels
    pixels = pixels[::-1] if upside else pixels
    return pixels.swapaxes(0, 1) if across else pixels
