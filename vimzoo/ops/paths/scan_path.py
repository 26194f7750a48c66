"""`ScanPath`: the order in which one direction of a state-space layer visits the tokens of a grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from inspect import signature
from itertools import count
from math import prod
from numbers import Integral
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from .orders import PAD, Axes, Diagonal, Hilbert, Moved, Snake, Spiral, Stride, Window, raster

ROW, ROW_REVERSED, COLUMN, COLUMN_REVERSED, TABLE = range(5)
_NUMBERS = count()
NAMED: WeakValueDictionary[str, ScanPath] = WeakValueDictionary()
"""Live paths by unique name: Dynamo accepts strings as constants, but not arbitrary objects."""


@dataclass(frozen=True)
class ScanPath:
    """One scan order over a grid whose tokens are numbered row by row: ``(H, W)``, or with any number of axes.

    Rows, columns and their reverses have closed forms, which the ops read without an index. Any other order is a
    ``table``: token numbers for one grid (on a larger one it reads the tokens of these numbers alone), or a function
    ``(H, W) -> token numbers`` for all of them, such as the constructors below give. In token numbers ``-1`` is a pad
    (its input and projections are zero, its output is dropped), and tokens that are left out get zero. A sequence is a
    ``1 x L`` grid: ``ScanPath("row")`` reads it forward, ``ScanPath("row").reversed()`` backward. Rows are read on
    grids of every rank, `axes` gives the other orders of a volume. Paths are values: equal ones share one index table
    per grid.

    Raises:
        ValueError: if ``order`` is unknown, or ``table`` is given with another order than ``"table"``, missing, or
            not something that can be a dictionary key.
    """

    order: str = "row"
    reverse: bool = False
    table: tuple[int, ...] | Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if self.order not in ("row", "column", "table"):
            raise ValueError(f"order: expected 'row', 'column' or 'table', got {self.order!r}")
        if not isinstance(self.reverse, bool):
            raise ValueError(f"reverse: expected True or False, got {self.reverse!r}")
        if (self.table is not None) != (self.order == "table"):
            raise ValueError(f"table: needed exactly when order is 'table', got order {self.order!r}")
        if not (self.table is None or isinstance(self.table, tuple) or callable(self.table)):
            raise ValueError(f"table: expected a tuple of token numbers or a function, got {self.table!r}")
        try:
            value = hash((self.order, self.reverse, self.table))
        except TypeError as error:
            raise ValueError(f"table: expected something hashable, got {self.table!r}") from error
        object.__setattr__(self, "_hash", value)  # a long table takes a tenth of a millisecond to hash
        object.__setattr__(self, "_name", f"path {next(_NUMBERS)}")
        NAMED[self._name] = self  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined, no-any-return]

    def __reduce__(self) -> tuple:  # hashes differ from process to process
        return ScanPath, (self.order, self.reverse, self.table)

    @classmethod
    def from_table(cls, table: Sequence[int] | Tensor | np.ndarray) -> ScanPath:
        """A path that visits the tokens ``table``, in that order; ``-1`` is a pad.

        Raises:
            ValueError: if ``table`` is not a list of whole numbers.
        """
        return cls("table", table=tuple(_whole_numbers(table).tolist()))

    @classmethod
    def from_function(cls, function: Callable[..., Any]) -> ScanPath:
        """A path for every grid: ``function(H, W)`` gives its token numbers, which are then kept.

        A function of three arguments is for volumes, and so on.

        Two such paths are equal if their functions are: pass one that has a name, not a new lambda for every call.
        """
        return cls("table", table=function)

    @classmethod
    def axes(cls, *order: int) -> ScanPath:
        """Along the axes of a grid of any rank, from the outermost loop to the innermost.

        On a volume ``(D, H, W)``, ``axes(0, 1, 2)`` reads along W, row by row and slice by slice, and
        ``axes(1, 2, 0)`` reads position after position, each through all slices. On a map, ``axes(1, 0)`` is
        ``ScanPath("column")``.

        Raises:
            ValueError: if ``order`` does not name each of its axes once.
        """
        if not order or sorted(order) != list(range(len(order))):
            raise ValueError(
                f"order: expected each of the axes 0..{max(len(order), 1) - 1} once, got {order}"
            )
        if order == tuple(range(len(order))):
            return cls("row")
        return cls("column") if order == (1, 0) else cls.from_function(Axes(order))

    @classmethod
    def snake(cls, by: str = "row") -> ScanPath:
        """Row by row (or column by column), every second one backward (PlainMamba, Yang et al. 2024; ZigMa).

        Starts in the top left corner; reversed, it ends there; ``flipped`` starts in another.

        Raises:
            ValueError: if ``by`` is not ``"row"`` or ``"column"``.
        """
        if by not in ("row", "column"):
            raise ValueError(f"by: expected 'row' or 'column', got {by!r}")
        path = cls.from_function(Snake())
        return path if by == "row" else path.transposed()

    @classmethod
    def window(
        cls,
        size: int | tuple[int, int],
        *,
        inside: ScanPath | None = None,
        between: ScanPath | None = None,
        pads: bool = True,
    ) -> ScanPath:
        """Window after window, row by row in each (LocalMamba, Huang et al. 2024).

        Args:
            size: of a window, ``(height, width)`` or one number for both.
            inside, between: paths over the cells of a window and over the windows; rows if not given.
            pads: pad the map right and bottom to whole windows and step on the pads, as LocalMamba does; its reverse
                meets them too. Without, every token is visited once and nothing else.

        Raises:
            ValueError: if ``size`` is not positive.
        """
        row = cls("row")
        return cls.from_function(Window(_pair("size", size), inside or row, between or row, pads))

    @classmethod
    def stride(
        cls, step: int | tuple[int, int], row: int = 0, column: int = 0, *, along: ScanPath | None = None
    ) -> ScanPath:
        """Every ``step``-th token of every ``step``-th row, from ``(row, column)`` on (EfficientVMamba, Pei 2024).

        ``along`` orders the tokens that remain, row by row if not given. Maps whose sides are not multiples of the step
        are padded right and bottom, so that the paths of all offsets have the same number of steps.

        Raises:
            ValueError: if ``step`` is not positive or an offset is not below it.
        """
        steps = _pair("step", step)
        for name, value, limit in (("row", row, steps[0]), ("column", column, steps[1])):
            if not 0 <= value < limit:
                raise ValueError(f"{name}: expected an offset in 0..{limit - 1}, got {value}")
        return cls.from_function(Stride(steps, (row, column), along or cls("row")))

    @classmethod
    def hilbert(cls) -> ScanPath:
        """A Hilbert curve over any ``H x W``: every step goes to a neighbour, near tokens come at near times."""
        return cls.from_function(Hilbert())

    @classmethod
    def diagonal(cls, *, zigzag: bool = True) -> ScanPath:
        """Diagonal after diagonal from the top left, alternately down and up (as JPEG orders) or all downward."""
        return cls.from_function(Diagonal(zigzag))

    @classmethod
    def spiral(cls) -> ScanPath:
        """Clockwise from the top left corner inward; reversed, from the centre outward."""
        return cls.from_function(Spiral())

    def reversed(self) -> ScanPath:
        """The same path, walked from its end to its start."""
        return replace(self, reverse=not self.reverse)

    def transposed(self) -> ScanPath:
        """The path mirrored at the main diagonal: what it did along rows, it does along columns."""
        was = self._moved()
        return self._with(Moved(was.path, not was.transpose, was.horizontal, was.vertical))

    def flipped(self, *, vertical: bool = False, horizontal: bool = False) -> ScanPath:
        """The path mirrored upside down (``vertical``), left to right (``horizontal``), or both."""
        was = self._moved()
        flips = was.vertical != vertical, was.horizontal != horizontal
        return self._with(Moved(was.path, was.transpose, *flips))

    def _moved(self) -> Moved:
        return self.table if isinstance(self.table, Moved) else Moved(replace(self, reverse=False))

    def _with(self, moved: Moved) -> ScanPath:
        path, reverse = moved.path, self.reverse
        if path.order != "table":  # keep the closed form where there is one
            if moved.transpose:
                path = ScanPath("row" if path.order == "column" else "column")
            if moved.vertical and moved.horizontal:
                return replace(path, reverse=not reverse)
            moved = Moved(path, False, moved.vertical, moved.horizontal)
        still = not (moved.transpose or moved.vertical or moved.horizontal)
        return replace(path if still else ScanPath.from_function(moved), reverse=reverse)

    @property
    def code(self) -> int:
        """Number by which the ops know a closed form; ``TABLE`` if there is none."""
        if self.order == "table":
            return TABLE
        return (COLUMN if self.order == "column" else ROW) + int(self.reverse)

    @property
    def rank(self) -> int | None:
        """Axes of the grids that the path is for; None if it does not say."""
        if isinstance(self.table, Axes):
            return len(self.table.order)
        return 2 if self.order == "column" else None

    def walk(self, *sizes: int) -> np.ndarray:
        """`tokens` as a read-only NumPy array, built once per grid."""
        return _walk(self, *sizes)

    def tokens(self, *sizes: int) -> Tensor:
        """Token number at every step, int64 ``(T,)``, on a grid of these sizes, such as ``height, width``.

        Raises:
            ValueError: if the grid is not of whole numbers, the path is for grids of another rank, a table names a
                token outside the grid, or a function gives something else than numbers.
        """
        return torch.from_numpy(self.walk(*sizes).copy())

    def inverse(self, *sizes: int) -> Tensor:
        """The step at which each token is visited, int64 ``(H W,)``: ``tokens[inverse]`` counts from zero.

        Raises:
            ValueError: if the path is not a permutation of the grid's tokens.
        """
        tokens, count = self.walk(*sizes), prod(sizes)
        if len(tokens) != count or not np.array_equal(np.sort(tokens), np.arange(count)):
            seen = tokens[tokens != PAD]
            raise ValueError(
                f"path: has no inverse on a {grid_name(sizes)} grid: {len(tokens)} steps for {count} tokens, "
                f"{len(tokens) - len(seen)} pads, {count - len(np.unique(seen))} tokens left out"
            )
        return torch.from_numpy(np.argsort(tokens))


def _whole_numbers(table: Any) -> np.ndarray:
    """Token numbers given by a user, as an int64 array."""
    values = np.asarray(table.detach().cpu() if isinstance(table, Tensor) else table)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        got = f"{values.dtype} of shape {values.shape}"
        raise ValueError(f"table: expected token numbers, whole and in one row, got {got}")
    return values.astype(np.int64)


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(pair) != 2 or not all(isinstance(item, int | Integral) and item >= 1 for item in pair):
        raise ValueError(f"{name}: expected a whole number of at least 1 or a pair of them, got {value!r}")
    return int(pair[0]), int(pair[1])


def grid_name(sizes: Sequence[int]) -> str:
    """Sizes as messages show them, such as ``3 x 4``."""
    return " x ".join(map(str, sizes))


def _check_sizes(sizes: Sequence[Any]) -> None:
    if not sizes:
        raise ValueError("grid: expected at least one size")
    names = ("height", "width") if len(sizes) == 2 else [f"size of axis {i}" for i in range(len(sizes))]
    for name, size in zip(names, sizes, strict=True):
        if not isinstance(size, Integral) or size < 0:
            raise ValueError(f"{name}: expected a whole number of at least 0, got {size!r}")


def check_rank(path: ScanPath, axes: int) -> None:
    """Check that a path can be for grids of so many axes.

    Raises:
        ValueError: it is not.
    """
    if path.rank is not None and path.rank != axes:
        hint = "; ScanPath.axes gives the orders of other grids" if path.order == "column" else ""
        raise ValueError(f"paths: one is for grids of {path.rank} axes, got a grid of {axes}{hint}")


def _called(function: Callable[..., Any], sizes: tuple[int, ...]) -> np.ndarray:
    try:
        signature(function).bind(*sizes)
    except TypeError as error:
        raise ValueError(
            f"paths: the function of one does not take the {len(sizes)} sizes of a {grid_name(sizes)} grid"
        ) from error
    except ValueError:  # some built-in functions have no signature
        pass
    return _whole_numbers(function(*sizes) if prod(sizes) else ())


@lru_cache(maxsize=1024)
def _walk(path: ScanPath, *sizes: int) -> np.ndarray:
    _check_sizes(sizes)
    check_rank(path, len(sizes))
    count = prod(sizes)
    if path.order == "row":
        tokens = raster(*sizes).ravel()
    elif path.order == "column":
        tokens = raster(*sizes).T.ravel()
    elif callable(path.table):
        tokens = _called(path.table, sizes)
    else:
        tokens = np.array(path.table, dtype=np.int64)
    if tokens.size and not PAD <= tokens.min() <= tokens.max() < count:
        raise ValueError(f"paths: a table names tokens outside 0..{count - 1} of a {grid_name(sizes)} grid")
    tokens = np.ascontiguousarray(tokens[::-1] if path.reverse else tokens)
    tokens.flags.writeable = False
    return tokens
