"""How the pixels of a frame are stored."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Layout", "closest", "layout_of", "loss"]

_UNUSED = re.compile(r"yuvj|f16|f32|msb|0(rgb|bgr)|(rgb|bgr)(0|\d{3})|x2|cuda|nv2\d")
"""Names of formats with aliases, floating point, padding or an unusual order of bits."""


@dataclass(frozen=True)
class Layout:
    """A pixel format as far as it matters for the numbers.

    Attributes:
        name: FFmpeg's name, such as ``yuv420p10le``.
        kind: ``"yuv"``, ``"rgb"`` or ``"grey"``.
        bits: Bits per number.
        across, down: Pixels per chroma sample.
        alpha: Whether there is transparency.
        order: The planes that hold Y, U, V or R, G, B and then alpha; None if they share planes.
    """

    name: str
    kind: str
    bits: int
    across: int = 1
    down: int = 1
    alpha: bool = False
    order: tuple[int, ...] | None = None

    def chroma(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of chroma."""
        return -(-height // self.down), -(-width // self.across)

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Rows and columns of all planes, in the order of `order`."""
        whole = height, width
        colours = {"grey": [], "rgb": [whole] * 2, "yuv": [self.chroma(height, width)] * 2}[self.kind]
        return [whole, *colours, *[whole] * self.alpha]


def layout_of(form: Any) -> Layout:
    """The layout of an ``av.VideoFormat``, made for a width and height of 16 or more."""
    parts = form.components
    colours = [part for part in parts if not part.is_alpha]
    kind = "rgb" if form.is_rgb or form.has_palette else "yuv" if len(colours) == 3 else "grey"
    across = round(form.width / colours[1].width) if kind == "yuv" else 1
    down = round(form.height / colours[1].height) if kind == "yuv" else 1
    order = tuple(part.plane for part in parts)
    apart = len(set(order)) == len(order) and not (form.has_palette or form.is_bit_stream)
    alpha = len(colours) < len(parts)
    plain = apart and not (form.is_big_endian and colours[0].bits > 8) and not _UNUSED.search(form.name)
    bits = max(part.bits for part in colours)
    return Layout(form.name, kind, bits, across, down, alpha, order if plain else None)


def usable(name: str) -> bool:
    """Whether frames of a format can be made here."""
    return not _UNUSED.search(name)


def loss(have: Layout, kept: Layout) -> tuple[int, int, int, int, int, int]:
    """What is lost and added if ``have`` is stored as ``kept``; smaller is better, all 0 if they are alike.

    In this order: transparency, bits, colours and their sharpness, the kind of colours, and what is only added.
    """
    kinds = {"grey": 0, "yuv": 1, "rgb": 2}
    coarser = max(kept.across - have.across, 0) + max(kept.down - have.down, 0)
    finer = max(have.across - kept.across, 0) + max(have.down - kept.down, 0)
    grey = kinds[kept.kind] == 0 < kinds[have.kind]
    return (
        int(have.alpha and not kept.alpha),
        max(have.bits - kept.bits, 0),
        99 if grey else coarser,
        int(have.kind != kept.kind),
        max(kept.bits - have.bits, 0) + finer,
        int(kept.alpha and not have.alpha),
    )


def closest(have: Layout, choices: Iterable[Layout]) -> Layout:
    """The layout that keeps most of another one; the first of equals."""
    return min(choices, key=lambda kept: loss(have, kept))
