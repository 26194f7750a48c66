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
from .reading import Mask, read_mask
from .volumes import check_same_grid, cut, labels_of, slice_of

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

    with ThreadPoolExecutor(THREADS) as pool:
        looks = list(pool.map(lambda unit: _look(unit, codes), _units(images, masks)))
    found = [look for part in looks for look in part]
    return Survey(masks, *map(list, zip(*found, strict=True)))


Look = tuple[tuple[int, int], np.ndarray, np.ndarray]  # height and width, ids, how many pixels have them


def _units(images: Sequence[Path], masks: Sequence[Path]) -> list[list[tuple[Path, Path]]]:
    """Pairs that are read together: a single one, or all of one volume."""
    units: list[list[tuple[Path, Path]]] = []
    for pair in zip(images, masks, strict=True):
        if units and slice_of(pair[1]) and units[-1][-1][1].parent == pair[1].parent:
            units[-1].append(pair)
        else:
            units.append([pair])
    return units


def _look(unit: Sequence[tuple[Path, Path]], codes: Codes) -> list[Look]:
    image, path = unit[0]
    if (first := slice_of(path)) is not None:
        check_same_grid(image.parent, first.volume)
        volume = codes.ids(Mask(labels_of(first.volume), 16), first.volume)
        slices = [cut(volume, place.plane, place.number) for _, mask in unit if (place := slice_of(mask))]
        return [((ids.shape[0], ids.shape[1]), *np.unique(ids, return_counts=True)) for ids in slices]
    mask = read_mask(path, codes.colours is not None)
    shape, wanted = mask.pixels.shape[:2], image_size(image)
    if shape != wanted:
        raise UsageError(
            f"{path}: {shape[0]} x {shape[1]} pixels; expected {wanted[0]} x {wanted[1]} as {image}"
        )
    return [((shape[0], shape[1]), *np.unique(codes.ids(mask, path), return_counts=True))]
