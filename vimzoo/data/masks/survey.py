"""Looks at all images and masks before training: sizes, values, and how many pixels each class has."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vimzoo.errors import UsageError

from ..pairs.crops import image_size
from .codes import Codes
from .reading import read_mask

__all__ = ["Survey", "surveyed"]

THREADS = 8


@dataclass(frozen=True)
class Survey:
    """What was found in a list of masks.

    Attributes:
        paths: The masks.
        shapes: Height and width of each.
        values: Ids of each. counts: How many pixels have each of these ids.
    """

    paths: Sequence[Path]
    shapes: list[tuple[int, int]]
    values: list[np.ndarray]
    counts: list[np.ndarray]

    def largest(self, ignore_index: int) -> int:
        """The largest id that is not ignored; -1 if all are."""
        kept = [values[values != ignore_index].max(initial=-1) for values in self.values]
        return int(max(kept, default=-1))

    def pixels(self, codes: Codes, classes: int) -> np.ndarray:
        """Pixels of each class, (classes,) int64.

        Raises:
            UsageError: a mask holds an id that means nothing; names the file.
        """
        total = np.zeros(classes, dtype=np.int64)
        for path, values, counts in zip(self.paths, self.values, self.counts, strict=True):
            numbers = codes.numbers_of(values, classes, path)
            kept = numbers != codes.ignore_index
            np.add.at(total, numbers[kept], counts[kept])
        return total


def surveyed(images: Sequence[Path], masks: Sequence[Path], codes: Codes) -> Survey:
    """Read all masks and the headers of all images.

    Raises:
        UsageError: a file cannot be read, an image and its mask differ in size, or a colour means nothing.
    """

    def look(pair: tuple[Path, Path]) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
        image, path = pair
        mask = read_mask(path, codes.colours is not None)
        shape, wanted = mask.pixels.shape[:2], image_size(image)
        if shape != wanted:
            raise UsageError(
                f"{path}: {shape[0]} x {shape[1]} pixels; expected {wanted[0]} x {wanted[1]} as {image}"
            )
        return shape, *np.unique(codes.ids(mask, path), return_counts=True)

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(look, zip(images, masks, strict=True)))
    return Survey(masks, *map(list, zip(*found, strict=True)))
