"""Turns the ids or colours of mask files into class numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vimzoo.errors import UsageError

from .reading import LOSSY, Mask

__all__ = ["Codes", "parsed_codes"]

SHOWN = 6  # values in a message
IGNORE = "ignore"
BINARY = "binary"
_UNKNOWN = np.iinfo(np.int32).min


@dataclass(frozen=True)
class Codes:
    """What the values in mask files mean.

    Attributes:
        ignore_index: Class number of pixels that do not count.
        colours: Of each id, (N, 3); None where files hold ids.
        numbers: Id -> class number; None where these are the same.
        binary: Files hold 0 and the largest number of their type, or 0 and 1; in JPEG files the brighter half is 1.
    """

    ignore_index: int = 255
    colours: np.ndarray | None = None
    numbers: Mapping[int, int] | None = None
    binary: bool = False

    @property
    def least(self) -> int | None:
        """Number of classes that the codes name; None if files decide."""
        if self.binary:
            return 2
        if self.numbers is not None:
            return 1 + max(number for number in self.numbers.values() if number != self.ignore_index)
        return None if self.colours is None else len(self.colours)

    def ids(self, mask: Mask, path: Path) -> np.ndarray:
        """Ids of a mask, (H, W); `numbers_of` gives their class numbers.

        Raises:
            UsageError: a colour or value has no meaning; names the file, the values and how many pixels have them.
        """
        lossy = path.suffix.lower() in LOSSY
        if self.colours is not None and mask.pixels.dtype != np.uint8:
            raise UsageError(f"{path}: holds numbers; `colours` needs masks of colours")
        if self.colours is not None:
            return self._of_colours(mask.pixels, path)
        if self.binary:
            return _bright(mask, path, lossy)
        if lossy:
            raise UsageError(
                f"{path}: JPEG changes class numbers; expected PNG or TIFF, or `map`={BINARY} for black and white"
            )
        return mask.pixels

    def numbers_of(self, ids: np.ndarray, classes: int, path: Path) -> np.ndarray:
        """Class numbers (H, W) int32 of ids.

        Raises:
            UsageError: an id is neither mapped nor 0..classes-1 nor `ignore_index`.
        """
        table = self.numbers
        if table is None:
            table = {number: number for number in (*range(classes), self.ignore_index)}
        low, high = int(ids.min()), int(ids.max())
        if high - low < 1 << 16:
            found = np.array([table.get(value, _UNKNOWN) for value in range(low, high + 1)])[ids - low]
        else:
            values, places = np.unique(ids, return_inverse=True)
            found = np.array([table.get(int(value), _UNKNOWN) for value in values])[places]
        if (strange := ids[found == _UNKNOWN]).size:
            held = [str(value) for value in np.unique(strange)]
            expected = (
                f"0..{classes - 1} or {self.ignore_index} (ignored); black and white masks need `map`={BINARY}"
                if self.numbers is None
                else f"the keys of `map`, {_listed([str(key) for key in table])}"
            )
            raise UsageError(f"{path}: holds {_listed(held)}; expected {expected}")
        return found.astype(np.int32).reshape(ids.shape)

    def _of_colours(self, pixels: np.ndarray, path: Path) -> np.ndarray:
        assert self.colours is not None
        wanted, given = _packed(self.colours), _packed(pixels)
        order = np.argsort(wanted)
        places = np.searchsorted(wanted[order], given).clip(max=len(wanted) - 1)
        ids = order[places]
        if (strange := given[wanted[ids] != given]).size:
            names = [f"#{value:06x}" for value in np.unique(strange)]
            hint = "; JPEG changes colours" if path.suffix.lower() in LOSSY else ""
            raise UsageError(
                f"{path}: colours {_listed(names)} in {strange.size} pixels; expected those of `colours`{hint}"
            )
        return ids


def _packed(colours: np.ndarray) -> np.ndarray:
    """Colours (..., 3) as one number each."""
    red, green, blue = np.moveaxis(colours.astype(np.int64), -1, 0)
    return (red << 16) | (green << 8) | blue


def _bright(mask: Mask, path: Path, lossy: bool) -> np.ndarray:
    largest = 2**mask.bits - 1
    if lossy:
        return (mask.pixels > largest // 2).astype(np.int64)
    values = np.unique(mask.pixels)
    top = 1 if values.max() <= 1 else largest
    if strange := [str(value) for value in values if value not in (0, top)]:
        raise UsageError(
            f"{path}: {_listed(strange)}; expected 0 and {largest}, or 0 and 1, with `map`={BINARY}"
        )
    return (mask.pixels == top).astype(np.int64)


def _listed(values: Sequence[str]) -> str:
    more = f", ... ({len(values)} in all)" if len(values) > SHOWN else ""
    return ", ".join(values[:SHOWN]) + more


def parsed_codes(given: Any, colours: Sequence[Sequence[int]] | None, ignore_index: int) -> Codes:
    """The codes that the arguments ``map``, ``colours`` and ``ignore_index`` of a data set describe.

    Args:
        given: None, ``"binary"``, or id -> class number or ``"ignore"``.
        colours: Red, green and blue (0..255) of each id, in order.
        ignore_index: Class number of pixels that do not count.

    Raises:
        UsageError: an argument is of another form.
    """
    if not isinstance(ignore_index, int) or isinstance(ignore_index, bool):
        raise UsageError(f"`ignore_index`={ignore_index}: expected a whole number")
    table = None
    if colours is not None:
        table = np.array(colours) if len({len(colour) for colour in colours}) == 1 else np.empty(0)
        if table.ndim != 2 or table.shape[1] != 3 or table.dtype.kind not in "iu" or not _in_byte(table):
            raise UsageError(f"`colours`={colours}: expected a list of [red, green, blue], each 0..255")
        if len(np.unique(_packed(table))) < len(table):
            raise UsageError(f"`colours`={colours}: expected each colour once; `map` unites several ids")
    if given == BINARY:
        if table is not None:
            raise UsageError(f"`map`={BINARY}, `colours`: expected one of them")
        return Codes(ignore_index, binary=True)
    if given is None:
        return Codes(ignore_index, table)
    if not isinstance(given, Mapping) or not given:
        raise UsageError(
            f"`map`={given}: expected {BINARY}, or a mapping of ids to class numbers or {IGNORE}"
        )
    numbers = {}
    for key, value in given.items():
        number = ignore_index if value == IGNORE else value
        if not all(isinstance(n, int) and not isinstance(n, bool) for n in (key, number)):
            raise UsageError(f"`map`={given}: {key}: {value}; expected whole numbers, or {IGNORE}")
        if number < 0 and number != ignore_index:
            raise UsageError(
                f"`map`={given}: {key}: {value}; expected a class number, 0 or more, or {IGNORE}"
            )
        numbers[key] = number
    if all(number == ignore_index for number in numbers.values()):
        raise UsageError(f"`map`={given}: expected some id to have a class")
    if table is not None and set(numbers) != set(range(len(table))):
        raise UsageError(f"`map`={given}: expected each place in `colours`, 0..{len(table) - 1}")
    return Codes(ignore_index, table, numbers)


def _in_byte(table: np.ndarray) -> bool:
    return bool(table.size and table.min() >= 0 and table.max() <= 255)
