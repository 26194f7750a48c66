"""Pairs of a degraded and a clean image, whole for evaluation and as random crops for training."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile
from torch import Tensor
from torch.utils.data import Dataset

from .degradations import Degradation, Window, to_image
from .splits import UsageError
from .stored import opened

Rng = np.random.Generator | np.random.RandomState

__all__ = ["CropPairs", "ImagePairs", "PixelCache", "WholePairs", "image_size", "read_pixels"]

MODES = {1: "L", 3: "RGB"}
DEEP_MODES = ("I", "F")  # Pillow's 16 and 32-bit modes begin so; converting them to 8 bits would clip
ORIENTATION = 0x0112
TURNED = range(5, 9)  # EXIF orientations that exchange height and width
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_pixels(path: Path, channels: int = 3) -> np.ndarray:
    """An image file, or one in a data base, as ``(H, W, channels)`` uint8, upright.

    Raises:
        UsageError: the file cannot be read, or has more than 8 bits.
    """
    try:
        with opened(path) as source, Image.open(source) as file:
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
        with (
            opened(path, buffering=0) as source,
            Image.open(source) as file,
        ):  # a buffer would read what is skipped
            width, height = file.size
            if not isinstance(file, PngImageFile):
                turned = file.getexif().get(ORIENTATION) in TURNED
            elif _describes_late(source):
                turned = ImageOps.exif_transpose(file).size != file.size
            else:  # PNG's own getexif decodes all pixels to see what comes after them
                turned = Image.Image.getexif(file).get(ORIENTATION) in TURNED
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{path}: not a readable image ({error})") from error
    return (width, height) if turned else (height, width)


def _describes_late(file: BinaryIO) -> bool:
    """Whether a PNG file has, after its pixels, an entry that may hold an orientation; walks over their chunks.

    The file's position stays as it was.
    """
    before = file.tell()
    try:
        file.seek(len(PNG_SIGNATURE))
        pixels_seen = False
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if pixels_seen and kind == b"eXIf":
                return True
            if pixels_seen and kind in (b"tEXt", b"zTXt", b"iTXt"):
                keyword = file.read(min(length, 80)).split(b"\0")[0]
                if keyword in (b"XML:com.adobe.xmp", b"Raw profile type exif"):
                    return True
                length -= min(length, 80)
            pixels_seen = pixels_seen or kind == b"IDAT"
            file.seek(length + 4, 1)  # the sum of a chunk follows it
        return False
    finally:
        file.seek(before)


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
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both images or a part of them, ``(H, W, C)`` and ``(H scale, W scale, C)`` uint8, before `noisy`.

        The work of degrading is that of the part.

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

    def noisy(self, low: Tensor, rng: Rng) -> Tensor:
        """The degraded image with its noise, which is drawn anew for every crop."""
        return low if self.degradation is None else self.degradation.noisy(low, rng)

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
        window, rng = None, np.random.RandomState(0)
        if self.crop is not None:
            size = self.crop // self.pairs.scale
            sides = self.pairs.low_size(index)
            top, left = (max(0, side - size) // 2 for side in sides)
            window = Window(top, left, *(min(size, side) for side in sides))
        low, high = self.pairs.pixels(index, window, rng)
        return self.pairs.noisy(to_image(low), rng), to_image(high)


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
        which = (index if shape else epoch * self.count + index) % len(self.pairs)
        size = (shape[0] if shape else self.size) // self.pairs.scale
        top, left = (int(rng.integers(side - size + 1)) for side in self.pairs.low_size(which))
        mirror, upside, across = rng.integers(2, size=3) * (self.flip, self.rotate, self.rotate)
        pair = self.pairs.pixels(which, Window(top, left, size, size), rng)
        low, high = (_turned(part, mirror, upside, across) for part in pair)
        return self.pairs.noisy(to_image(low), rng), to_image(high)


def _turned(pixels: np.ndarray, mirror: int, upside: int, across: int) -> np.ndarray:
    """One of the eight symmetries of a square."""
    pixels = pixels[:, ::-1] if mirror else pixels
    pixels = pixels[::-1] if upside else pixels
    return pixels.swapaxes(0, 1) if across else pixels
