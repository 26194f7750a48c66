"""The orders behind `ScanPath`'s constructors: rules that give the token numbers of a walk over grids of any size.

A rule is a frozen dataclass, so that equal rules are equal paths, and is called with the sizes of a grid, for most
rules a height and a width. It works in NumPy: arrays built and cached here must not become fake, meta or inference
tensors because of a mode that is active in the caller when a size is first seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .scan_path import ScanPath

PAD = -1


def raster(*sizes: int) -> np.ndarray:
    """Token numbers in the layout of the grid, int64 ``(H, W)`` or with more axes."""
    return np.arange(prod(sizes), dtype=np.int64).reshape(sizes)


def numbered(rows: np.ndarray, columns: np.ndarray, height: int, width: int, valid: np.ndarray) -> np.ndarray:
    """Token numbers of the cells ``(rows, columns)``; a pad where a cell is off the grid or not ``valid``."""
    valid = valid & (rows < height) & (columns < width)
    return np.where(valid, rows * width + columns, PAD).ravel()


@dataclass(frozen=True)
class Axes:
    """Along the axes of a grid, from the outermost loop to the innermost."""

    order: tuple[int, ...]

    def __call__(self, *sizes: int) -> np.ndarray:
        """Token numbers, ``(T,)``."""
        return raster(*sizes).transpose(self.order).ravel()

    @property
    def cut(self) -> int | None:
        """The number of leading axes that are read last to first as one, if the order is such a rotation.

        ``(i, ..., n - 1, 0, ..., i - 1)`` reads the columns of the map whose rows are the first ``i`` axes.
        """
        first = self.order[0]
        rotated = (*range(first, len(self.order)), *range(first))
        return first if self.order == rotated else None


@dataclass(frozen=True)
class Snake:
    """Row by row, every second row backward, so that each step goes to a neighbour (Yang et al. 2024, PlainMamba)."""

    def __call__(self, height: int, width: int) -> np.ndarray:
        """Token numbers, ``(T,)``."""
        grid = raster(height, width)
        grid[1::2] = grid[1::2, ::-1].copy()
        return grid.ravel()


@dataclass(frozen=True)
class Window:
    """Window after window (Huang et al. 2024, LocalMamba); the map is padded right and bottom to whole windows."""

    size: tuple[int, int]
    inside: ScanPath
    between: ScanPath
    pads: bool

    def __call__(self, height: int, width: int) -> np.ndarray:
        """Token numbers, ``(T,)``, with or without the pads."""
        across = -(-width // self.size[1])
        window = self.between.walk(-(-height // self.size[0]), across)[:, None]
        cell = self.inside.walk(*self.size)[None]
        rows = window // across * self.size[0] + cell // self.size[1]
        columns = window % across * self.size[1] + cell % self.size[1]
        tokens = numbered(rows, columns, height, width, (window >= 0) & (cell >= 0))
        return tokens if self.pads else tokens[tokens != PAD]


@dataclass(frozen=True)
class Stride:
    """Every n-th token in both dimensions (Pei et al. 2024, EfficientVMamba); the map is padded right and bottom."""

    step: tuple[int, int]
    offset: tuple[int, int]
    along: ScanPath

    def __call__(self, height: int, width: int) -> np.ndarray:
        """Token numbers, ``(T,)``, equally many for each offset, with pads where the step does not divide the map."""
        across = -(-width // self.step[1])
        cell = self.along.walk(-(-height // self.step[0]), across)
        rows = cell // across * self.step[0] + self.offset[0]
        columns = cell % across * self.step[1] + self.offset[1]
        return numbered(rows, columns, height, width, cell >= 0)


@dataclass(frozen=True)
class Hilbert:
    """A Hilbert curve for any rectangle, after the generalised curve of Cerveny (github.com/jakubcerveny/gilbert).

    It starts in the top left corner and ends in an adjacent corner: along the longer side, or along the shorter one
    where that is impossible. Colour the cells like a chess board: a walk along a side of odd length ends on the colour
    it began with, so it visits an odd number of cells, which is impossible if the other side is even.
    """

    def __call__(self, height: int, width: int) -> np.ndarray:
        """Token numbers, ``(T,)``: every token once, each a neighbour of the last."""
        along_rows = width >= height
        if max(height, width) % 2 and not min(height, width) % 2:
            along_rows = not along_rows
        if along_rows:
            cells = hilbert_cells(width, height)
            return cells[:, 1] * width + cells[:, 0]
        cells = hilbert_cells(height, width)
        return cells[:, 0] * width + cells[:, 1]


@lru_cache(maxsize=512)
def hilbert_cells(length: int, depth: int) -> np.ndarray:
    """Cells ``(along, across)`` of a curve over ``length x depth`` from ``(0, 0)`` to ``(length - 1, 0)``.

    A long rectangle is cut in two halves, visited one after the other. Any other is cut in three: up the left part,
    along the far part, and down the right part. Cuts prefer even sizes, for which the ends of the parts are adjacent.
    """
    if depth == 1 or length == 1:
        steps = np.arange(length * depth, dtype=np.int64)
        return np.stack([steps, 0 * steps] if depth == 1 else [0 * steps, steps], 1)
    half, up = length // 2, depth // 2
    if 2 * length > 3 * depth:
        half += half % 2 if length > 2 else 0
        second = hilbert_cells(length - half, depth) + np.array([half, 0])
        return np.concatenate([hilbert_cells(half, depth), second])
    up += up % 2 if depth > 2 else 0
    left = hilbert_cells(up, half)[:, ::-1]
    far = hilbert_cells(length, depth - up) + np.array([0, up])
    right = np.array([length - 1, up - 1]) - hilbert_cells(up, length - half)[:, ::-1]
    return np.concatenate([left, far, right])


@dataclass(frozen=True)
class Diagonal:
    """Diagonal after diagonal from the top left corner; with ``zigzag``, every second one upward, as JPEG reads."""

    zigzag: bool

    def __call__(self, height: int, width: int) -> np.ndarray:
        """Token numbers, ``(T,)``."""
        rows, columns = np.divmod(raster(height, width).ravel(), width)
        diagonal = rows + columns
        upward = self.zigzag & (diagonal % 2 == 0)
        return np.lexsort((np.where(upward, -rows, rows), diagonal))


@dataclass(frozen=True)
class Spiral:
    """Clockwise from the top left corner inward."""

    def __call__(self, height: int, width: int) -> np.ndarray:
        """Token numbers, ``(T,)``."""
        grid, sides = raster(height, width), []
        while grid.size:
            sides.append(grid[0])
            grid = np.rot90(grid[1:])
        return np.concatenate(sides)


@dataclass(frozen=True)
class Moved:
    """Another path on the map mirrored at its diagonal (first), upside down, or left to right."""

    path: ScanPath
    transpose: bool = False
    vertical: bool = False
    horizontal: bool = False

    def __call__(self, height: int, width: int) -> np.ndarray:
        """Token numbers, ``(T,)``."""
        moved = raster(width, height).T if self.transpose else raster(height, width)
        moved = moved[::-1] if self.vertical else moved
        moved = moved[:, ::-1] if self.horizontal else moved
        token_at = np.full(height * width + 1, PAD)  # a pad, -1, picks the last entry
        token_at[moved.ravel()] = np.arange(height * width)
        return token_at[self.path.walk(*((width, height) if self.transpose else (height, width)))]


@dataclass(frozen=True)
class Padded:
    """A path padded at its end to the length of the longest of ``all_paths``."""

    path: ScanPath
    all_paths: frozenset[ScanPath]

    def __call__(self, *sizes: int) -> np.ndarray:
        """Token numbers, ``(T,)``."""
        tokens = self.path.walk(*sizes)
        longest = max(len(path.walk(*sizes)) for path in self.all_paths)
        return np.pad(tokens, (0, longest - len(tokens)), constant_values=PAD)
