"""Colours of films: planes of code values to RGB and back, on any device (ITU-T H.273, BT.601, 709, 2020).

FFmpeg's own conversion through PyAV is less exact, and moves colours sideways each time a film is converted.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from vimzoo.errors import UsageError

from .layout import Layout

__all__ = ["MATRICES", "Colours", "Field", "colours_of", "fields_of", "from_rgb", "stored", "to_rgb"]

MATRICES = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
"""H.273's code of a matrix -> shares of red and blue in luma."""
_UNKNOWN, _RGB = 2, 0
_FULL = 2


@dataclass(frozen=True)
class Colours:
    """How code values become RGB: the shares of red and blue in luma, and whether all codes are used."""

    red: float
    blue: float
    full: bool


@dataclass(frozen=True)
class Field:
    """The rows that belong together, and where their chroma is.

    Attributes:
        first, step: Rows ``first, first + step, ...`` of every plane.
        place: Row of the first chroma sample among these rows, where chroma has half of the rows.
    """

    first: int = 0
    step: int = 1
    place: float = 0.5


WHOLE = Field()
INTERLACED = (Field(0, 2, 0.25), Field(1, 2, 0.75))
"""Top and bottom field; each has chroma of its own, as MPEG-2 places it."""


def fields_of(height: int, interlaced: bool) -> tuple[Field, ...]:
    """The parts of a frame that were recorded at one time each."""
    return INTERLACED if interlaced and height % 2 == 0 and height >= 4 else (WHOLE,)


def colours_of(layout: Layout, width: int, height: int, matrix: int, colour_range: int) -> Colours:
    """The colours that a film's tags state.

    Without a tag the matrix is BT.709 from 1280 columns or 577 rows on, otherwise BT.601; as players assume.

    Args:
        layout: Of its frames.
        width, height: Of its frames, in pixels.
        matrix: H.273's code of the matrix; 2 means unknown.
        colour_range: FFmpeg's code: 0 unknown, 1 limited, 2 full.

    Raises:
        UsageError: the matrix is not supported.
    """
    if layout.kind == "yuv" and matrix in (_UNKNOWN, _RGB):
        matrix = 1 if width >= 1280 or height > 576 else 6
    if layout.kind == "yuv" and matrix not in MATRICES:
        raise UsageError(
            f"colour matrix {matrix} (ITU-T H.273): expected one of {', '.join(map(str, MATRICES))}; "
            "convert the film first"
        )
    full = colour_range == _FULL or (colour_range == 0 and layout.kind != "yuv")
    return Colours(*MATRICES[matrix if layout.kind == "yuv" else 1], full or layout.kind == "rgb")


def _codes(bits: int, full: bool) -> tuple[float, float, float, float]:
    """Black, the span to white, the middle of chroma, and the span of chroma, in code values."""
    if full:
        return 0.0, 2.0**bits - 1, 2.0 ** (bits - 1), 2.0**bits - 1
    step = 2.0 ** (bits - 8)
    return 16 * step, 219 * step, 128 * step, 224 * step


def to_rgb(planes: list[Tensor], layout: Layout, colours: Colours, field: Field = WHOLE) -> Tensor:
    """Code values as RGB.

    Args:
        planes: Y, U, V or R, G, B or grey, and alpha if there is some: ``(rows, columns)`` float32.
        layout: How they are stored.
        colours: Their meaning.
        field: The place of their chroma.

    Returns:
        ``(channels, rows, columns)`` float32; black is 0 and white 1, and values may lie outside. Alpha is the last
        channel.
    """
    black, span, middle, wide = _codes(layout.bits, colours.full)
    top = 2.0**layout.bits - 1
    alpha = [planes[-1] / top] if layout.alpha else []
    y = (planes[0] - black) / span
    if layout.kind == "grey":
        return torch.stack([y, *alpha])
    if layout.kind == "rgb":
        return torch.stack([plane / top for plane in planes[:3]] + alpha)
    u, v = (_finer((plane - middle) / wide, y.shape, layout, field) for plane in planes[1:3])
    green = 1 - colours.red - colours.blue
    r, b = y + 2 * (1 - colours.red) * v, y + 2 * (1 - colours.blue) * u
    return torch.stack([r, (y - colours.red * r - colours.blue * b) / green, b, *alpha])


def from_rgb(image: Tensor, layout: Layout, colours: Colours, field: Field = WHOLE) -> list[Tensor]:
    """RGB, or grey for a grey layout, as code values; the inverse of `to_rgb`.

    Args:
        image: ``(channels, rows, columns)``, with alpha as the last channel if the layout has it.
        layout, colours, field: As in `to_rgb`.

    Returns:
        Planes of code values, not rounded.
    """
    black, span, middle, wide = _codes(layout.bits, colours.full)
    top = 2.0**layout.bits - 1
    alpha = [image[-1] * top] if layout.alpha else []
    if layout.kind == "grey":
        return [image[0] * span + black, *alpha]
    r, g, b = image[:3]
    if layout.kind == "rgb":
        return [r * top, g * top, b * top, *alpha]
    y = colours.red * r + (1 - colours.red - colours.blue) * g + colours.blue * b
    u, v = (b - y) / (2 * (1 - colours.blue)), (r - y) / (2 * (1 - colours.red))
    return [y * span + black, *(_coarser(x, layout, field) * wide + middle for x in (u, v)), *alpha]


def stored(planes: list[Tensor], bits: int) -> list[Tensor]:
    """Code values rounded to those that exist."""
    return [plane.round().clamp(0, 2**bits - 1) for plane in planes]


def _finer(chroma: Tensor, size: torch.Size, layout: Layout, field: Field) -> Tensor:
    """Chroma at every pixel, by linear interpolation."""
    for axis, (step, place) in enumerate(((layout.down, field.place), (layout.across, 0.0))):
        if step > 1:
            chroma = _mixed(chroma, axis, *_taps(size[axis], chroma.shape[axis], step, place, chroma.device))
    return chroma


def _coarser(chroma: Tensor, layout: Layout, field: Field) -> Tensor:
    """Chroma at its own places, by the weights of `_finer` the other way round: colours stay where they are."""
    whole = layout.chroma(chroma.shape[0] * field.step, chroma.shape[1])
    few = len(range(field.first, whole[0], field.step)), whole[1]
    for axis, (step, place) in enumerate(((layout.down, field.place), (layout.across, 0.0))):
        if step > 1:
            many = chroma.shape[axis]
            chroma = _mixed(chroma, axis, *_taps(many, few[axis], step, place, chroma.device, back=True))
    return chroma


def _mixed(values: Tensor, axis: int, places: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows or columns; ``(n, taps)`` each."""
    shape = (-1, 1) if axis == 0 else (1, -1)
    taps = zip(places.unbind(1), weights.unbind(1), strict=True)
    return torch.stack([values.index_select(axis, i) * weight.view(shape) for i, weight in taps]).sum(0)


@functools.lru_cache(maxsize=32)
def _taps(
    many: int, few: int, step: int, place: float, device: torch.device, back: bool = False
) -> tuple[Tensor, Tensor]:
    """Places and weights of the linear interpolation of samples at ``place, place + step, ...``, or its transpose."""
    where = ((torch.arange(many) - place) / step).clamp(0, few - 1)
    weights = (1 - (where[:, None] - torch.arange(few)).abs()).clamp(min=0)
    if back:
        weights = weights.T / weights.sum(0)[:, None]
    found = weights.topk(min(2 * step + 1 if back else 2, weights.shape[1]), dim=1)
    return found.indices.to(device), found.values.to(device)
