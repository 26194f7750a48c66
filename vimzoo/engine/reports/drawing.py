"""Figures of a run, none of which is worth failing for."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vimzoo.metrics import to_8bit

SHEET_IMAGES = 3
"""Rows of a sheet."""
SHEET_PIXELS = 160
"""Side of the parts that a sheet shows."""


def drawn(what: str, draw: Callable[..., None], *args: Any) -> None:
    """``draw(*args)``; what cannot be drawn is a warning, because no figure is worth a run.

    Signs that matplotlib's font lacks are drawn as boxes, without a warning for each.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from")
            draw(*args)
    except Exception as error:  # a font, a memory, a library: whatever it is, the numbers are safe
        print(f"{what} is not drawn ({type(error).__name__}: {error})", file=sys.stderr, flush=True)


def sheet(rows: Sequence[Sequence[tuple[str, Tensor]]], path: Path) -> None:
    """Draw the middle of images with their titles; of more than three bands the first three.

    Args:
        rows: (title, image ``(C, H, W)`` in 0..1) for each column.
        path: The picture to write.
    """
    from matplotlib.figure import Figure

    columns = len(rows[0])
    figure = Figure(figsize=(3 * columns, 3.1 * len(rows)), layout="constrained")
    for row, images in enumerate(rows):
        for column, (title, image) in enumerate(images):
            axes = figure.add_subplot(len(rows), columns, columns * row + column + 1)
            axes.imshow(_shown(image))
            axes.set_title(title, fontsize=10)
            axes.axis("off")
    figure.savefig(path, dpi=130)


def _shown(image: Tensor) -> np.ndarray:
    top, left = (max(0, side - SHEET_PIXELS) // 2 for side in image.shape[1:])
    part = image[:, top : top + SHEET_PIXELS, left : left + SHEET_PIXELS]
    return to_8bit(part[:3] if len(part) > 2 else part[:1].repeat(3, 1, 1))


def printable(name: str) -> str:
    """The name of a folder as text; bytes that are no UTF-8 become the sign for such."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
