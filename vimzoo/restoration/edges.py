"""Continues colours into invisible parts of a picture, so that a model does not draw them into the visible ones."""

from __future__ import annotations

import numpy as np

__all__ = ["continued", "settle"]


BLOCK, REACH = 256, 64
"""Rows that are filled at once, to bound memory, and those above and below that they are filled from."""


def continued(colours: np.ndarray, visible: np.ndarray, *, whole: bool = False) -> np.ndarray:
    """Colours whose invisible pixels are replaced by an average of the visible ones nearby.

    Averages over ever larger squares fill what smaller ones leave empty. Visible rows further away than `REACH` may be
    passed over, because no model sees from there to the visible part.

    Args:
        colours: ``(H, W, C)``, any type of numbers.
        visible: ``(H, W)`` bool.
        whole: Fill everything, however far from visible pixels.

    Returns:
        A new array, equal to ``colours`` where that is visible; ``colours`` itself if all of it is visible or none.
    """
    if visible.all() or not visible.any():
        return colours
    result = colours.copy()
    block, reach = (len(colours), 0) if whole else (BLOCK, REACH)
    for top in range(0, len(colours), block):
        first, last = max(0, top - reach), top + block + reach
        seen = visible[first:last, :, None]
        if seen.all() or not seen.any():
            continue
        sums = np.where(seen, colours[first:last], 0).astype(np.float32)
        filled = _filled(sums, seen.astype(np.float32))[top - first :][:block]
        if colours.dtype.kind in "iu":
            filled = np.rint(filled)
        hidden = ~visible[top : top + block]
        result[top : top + block][hidden] = filled[hidden].astype(colours.dtype)
    return result


def settle(result: np.ndarray, alpha: np.ndarray, scale: int) -> None:
    """Set restored alpha to nothing where the picture's was, and to opaque likewise; in place.

    Where the model enlarges, pixels next to a change of alpha are left as restored, or edges would become steps.

    Args:
        result: ``(H scale, W scale, 1)``.
        alpha: ``(H, W, 1)``, of integers or floating point in 0..1.
    """
    top = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "iu" else 1.0
    for first in range(0, len(alpha), BLOCK):
        above = min(first, 1)
        part = alpha[first - above : first + BLOCK + 1, :, 0]
        for value in (0, top):
            same = part == value
            if scale > 1:
                same = _all_around(same)
            same = same[above:][:BLOCK].repeat(scale, 0).repeat(scale, 1)
            result[first * scale : (first + BLOCK) * scale, :, 0][same] = value


def _all_around(mask: np.ndarray) -> np.ndarray:
    """Where a mask is set at a pixel and its eight neighbours within the picture."""
    padded = np.pad(mask, 1, constant_values=True)
    rows = padded[:-2] & padded[1:-1] & padded[2:]
    return rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]


def _filled(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Averages ``sums / weights``; where the weight is 0, those of the picture at half its size."""
    if sums.shape[0] == 1 and sums.shape[1] == 1:
        return sums / weights
    known = weights > 0
    own = np.divide(sums, weights, out=np.zeros_like(sums), where=known)
    if known.all():
        return own
    half = _filled(_halved(own * known), _halved(known.astype(np.float32)))
    larger = half.repeat(2, 0).repeat(2, 1)[: sums.shape[0], : sums.shape[1]]
    return np.where(known, own, larger)


def _halved(values: np.ndarray) -> np.ndarray:
    """Sums over squares of 2 x 2 pixels; odd sides are padded with 0."""
    height, width, channels = values.shape
    padded = np.pad(values, ((0, height % 2), (0, width % 2), (0, 0)))
    return padded.reshape(-(-height // 2), 2, -(-width // 2), 2, channels).sum((1, 3))
