"""Cuts an image into overlapping tiles and assembles the results row by row.

An axis is a list of `Span` whose weights sum to 1 at every pixel. A tile's weights are the product of its row's and
its column's, so no division by a sum of weights is needed. Finished rows are returned while later tiles are still
running: memory holds one row of tiles at the result's size, for images of any size.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Mosaic", "Span", "blended_axis", "official_axis", "padded_to"]

OFFICIAL_SIDE = 200
"""The authors tile images from this side on; see `official_axis`."""


@dataclass(frozen=True)
class Span:
    """The position of a tile on one axis.

    Attributes:
        start, stop: Pixels of the image, possibly padded.
        weights: ``((stop - start) scale,)`` float32, the share of this tile in each pixel of the result.
    """

    start: int
    stop: int
    weights: Tensor

    @property
    def length(self) -> int:
        """Pixels of the image."""
        return self.stop - self.start


@functools.lru_cache(256)
def blended_axis(size: int, tile: int, overlap: int, scale: int = 1, multiple: int = 1) -> tuple[Span, ...]:
    """The fewest evenly spaced tiles of equal length, at most ``tile``, that overlap enough.

    Two neighbours share ``overlap`` pixels, where they are blended by a squared cosine. Pixels beyond the last one
    (due to ``multiple``) have to be padded.

    Args:
        size: Pixels of the image.
        tile: Longest tile.
        overlap: Pixels that neighbours share.
        scale: Pixels of the result per pixel of the image.
        multiple: Tile lengths are multiples of this; ``tile`` must be one.

    Raises:
        ValueError: a size is not positive, or the overlap covers the whole tile.
    """
    if size < 1 or tile < multiple or tile % multiple:
        raise ValueError(f"tile: expected a positive multiple of {multiple}, got {tile} for {size} pixels")
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap: expected 0 to {tile - 1} pixels with tiles of {tile}, got {overlap}")
    count = 1 if size <= tile else math.ceil((size - overlap) / (tile - overlap))
    length = math.ceil((size + (count - 1) * overlap) / count / multiple) * multiple
    step = max(size - length, 0) / max(count - 1, 1)
    starts = [round(i * step) for i in range(count)]
    shared = [before + length - after for before, after in itertools.pairwise(starts)]
    fade = min(overlap, *shared) if shared else 0
    pixels = (torch.arange(length * scale, dtype=torch.float64) + 0.5) / scale
    spans = []
    for i, start in enumerate(starts):
        weights = torch.ones_like(pixels)
        if i > 0:
            weights = _faded_in(pixels + start, start + shared[i - 1] / 2, fade)
        if i + 1 < count:
            weights = weights - _faded_in(pixels + start, starts[i + 1] + shared[i] / 2, fade)
        spans.append(Span(start, start + length, weights.float()))
    return tuple(spans)


def _faded_in(x: Tensor, middle: float, width: int) -> Tensor:
    """0 before and 1 after a smooth step of ``width`` around ``middle``."""
    part = ((x - middle) / max(width, 1e-6) + 0.5).clamp(0, 1)
    return (part * (math.pi / 2)).sin().square()


def official_axis(size: int, scale: int = 1) -> list[Span]:
    """The tiling of MambaIR's and MambaIRv2's published figures (``MambaIRModel.test``).

    ``size // 200 + 1`` parts of equal length after padding; each tile is extended by a tenth of a part towards its
    neighbours, and its own part of the result is pasted without blending.
    """
    if size < 1:
        raise ValueError(f"size: expected a positive number of pixels, got {size}")
    count = size // OFFICIAL_SIDE + 1
    part = math.ceil(size / count)
    more = part // 10
    spans = []
    for i in range(count):
        start = i * part - (more if i > 0 else 0)
        stop = (i + 1) * part + (more if i + 1 < count else 0)
        weights = torch.zeros((stop - start) * scale)
        weights[(i * part - start) * scale : ((i + 1) * part - start) * scale] = 1
        spans.append(Span(start, stop, weights))
    return spans


def padded_to(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pad an image ``(H, W, C)`` at the bottom and the right by reflection, without repeating border pixels."""
    missing = height - image.shape[0], width - image.shape[1]
    if missing == (0, 0):
        return image
    return np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect")


class Mosaic:
    """An image cut into tiles, and the result that is put together from theirs, row by row.

    Args:
        image: ``(H, W, C)``.
        rows, columns: From `blended_axis` or `official_axis`, for the image's height and width.
        scale: Pixels of the result per pixel of the image and axis.
        batch: Maximum number of tiles per chunk.

    Attributes:
        chunks: Positions (row, column) of tiles of equal size, at most ``batch``; `add` wants them in this order.
    """

    def __init__(
        self, image: np.ndarray, rows: Sequence[Span], columns: Sequence[Span], scale: int = 1, batch: int = 1
    ) -> None:
        self.rows, self.columns, self.scale = rows, columns, scale
        self.height, self.width = image.shape[0] * scale, image.shape[1] * scale
        padded = max(rows[-1].stop, image.shape[0]), max(columns[-1].stop, image.shape[1])
        self.image = padded_to(image, *padded)
        self.chunks = list(_chunks(rows, columns, batch))
        self._band = torch.empty(0)  # the rows of the result from `_top` on, unfinished
        self._top = self._next = 0

    def tiles(self, chunk: Sequence[tuple[int, int]]) -> Tensor:
        """Tiles ``(B, C, h, w)`` of the image's dtype."""
        spans = [(self.rows[r], self.columns[c]) for r, c in chunk]
        found = [self.image[row.start : row.stop, column.start : column.stop] for row, column in spans]
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)

    def add(self, results: Tensor) -> Tensor | None:
        """The rows of the result that are finished with the next chunk, if there are any.

        Args:
            results: The chunk's, ``(B, C', h scale, w scale)``, float32 on the CPU.

        Returns:
            Float32 ``(C', rows, W scale)``; all of them together have ``H scale`` rows.
        """
        if len(self.rows) == len(self.columns) == 1:  # whose weights are 1
            return results[0, :, : self.height, : self.width]
        chunk, top, scale = self.chunks[self._next], self._top, self.scale
        self._next += 1
        needed, width = self.rows[chunk[-1][0]].stop * scale - top, self.image.shape[1] * scale
        band = self._band = _lengthened(self._band, needed, results, width)
        for (r, c), result in zip(chunk, results, strict=True):
            row, column = self.rows[r], self.columns[c]
            place = band[:, row.start * scale - top : row.stop * scale - top]
            place = place[:, :, column.start * scale : column.stop * scale]
            place.addcmul_(result * row.weights[:, None], column.weights)
        last = self._next == len(self.chunks)
        ready = self.height if last else self.rows[self.chunks[self._next][0][0]].start * scale
        if ready <= top:
            return None
        self._band, self._top = band[:, ready - top :], ready
        return band[:, : min(ready, self.height) - top, : self.width]


def _chunks(rows: Sequence[Span], columns: Sequence[Span], batch: int) -> Iterator[list[tuple[int, int]]]:
    """Positions in the grid, row by row, in groups of up to ``batch`` neighbours of equal shape."""
    grid = ((r, c) for r in range(len(rows)) for c in range(len(columns)))
    for _, same in itertools.groupby(grid, lambda place: (rows[place[0]].length, columns[place[1]].length)):
        while chunk := list(itertools.islice(same, batch)):
            yield chunk


def _lengthened(band: Tensor, needed: int, like: Tensor, width: int) -> Tensor:
    """Append rows of zeros to the band, up to ``needed``."""
    if band.dim() == 1:
        return like.new_zeros(like.shape[1], needed, width)
    return F.pad(band, (0, 0, 0, needed - band.shape[1])) if needed > band.shape[1] else band
