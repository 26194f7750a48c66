"""Matching classes by name: class numbers of one data set mean nothing in another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import Dataset, Subset

from vimzoo.errors import UsageError

from ..splits import Images, Splits

SHOWN = 8  # names in a message


def listed(names: Sequence[str]) -> str:
    """``3 classes (cat, cow, dog)``."""
    more = ", ..." if len(names) > SHOWN else ""
    return f"{len(names)} class{'' if len(names) == 1 else 'es'} ({', '.join(names[:SHOWN])}{more})"


class Renumbered(Dataset):
    """A data set whose class number ``n`` becomes ``numbers[n]``, of images or pixels; that of ignored pixels stays."""

    def __init__(self, images: Images, numbers: Sequence[int]) -> None:
        self.images, self.numbers = images, list(numbers)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Any) -> tuple[Any, Any]:
        image, number = self.images[key]
        return image, self._renumbered(number)

    def __getitems__(self, keys: Sequence[Any]) -> list[tuple[Any, Any]]:
        """A batch, for torch's loader."""
        batch = getattr(self.images, "__getitems__", None)
        pairs = batch(keys) if batch else [self.images[key] for key in keys]
        return [(image, self._renumbered(number)) for image, number in pairs]

    def _renumbered(self, target: Any) -> Any:
        if getattr(target, "ndim", 0) == 0:
            return self.numbers[int(target)]
        known = (target >= 0) & (target < len(self.numbers))
        return torch.tensor(self.numbers)[target.where(known, 0)].where(known, target)

    def part(self, places: Sequence[int]) -> Renumbered:
        """Some of the images, in the order of ``places``."""
        part = getattr(self.images, "part", None)
        images = part(places) if part else Subset(cast(Dataset, self.images), list(places))
        return Renumbered(cast(Images, images), self.numbers)

    @property
    def shapes(self) -> Any:
        """Height and width of each image where they differ, else None."""
        return getattr(self.images, "shapes", None)

    @property
    def cases(self) -> Any:
        """The volume that each image is a slice of, else None."""
        return getattr(self.images, "cases", None)

    @property
    def names(self) -> Any:
        """Names of the images, else None."""
        return getattr(self.images, "names", None)


def numbered_as(data: Splits, classes: Sequence[str], owner: str) -> Splits:
    """The data set with the numbers that its classes have in ``classes``, of which it may lack some.

    Args:
        classes: names by number, as a model knows them.
        owner: of those names, for the error.

    Raises:
        UsageError: a class of the data is not among them, or names are not unique.
    """
    if tuple(classes) == data.classes:
        return data
    found = f"{owner} has {listed(classes)}, the data ({data.name}) have {listed(data.classes)}"
    if strange := sorted(set(data.classes) - set(classes)):
        raise UsageError(
            f"{found}; expected a part of the former, but {', '.join(strange[:SHOWN])} is not in it"
        )
    if any(len(set(names)) < len(names) for names in (classes, data.classes)):
        raise UsageError(f"{found}; expected unique names")
    numbers = [list(classes).index(name) for name in data.classes]
    pixels = data.pixels
    if pixels is not None:
        pixels = np.zeros(len(classes), dtype=pixels.dtype)
        pixels[numbers] = data.pixels
    return replace(
        data,
        classes=tuple(classes),
        train=Renumbered(data.train, numbers),
        pixels=pixels,
        labels=None if data.labels is None else np.array(numbers)[data.labels],
        val=Renumbered(data.val, numbers),
        test=None if data.test is None else Renumbered(data.test, numbers),
    )
