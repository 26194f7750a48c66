"""Turns pixels upright, by the orientations that EXIF defines."""

import numpy as np

__all__ = ["swaps_sides", "upright"]

_QUARTERS = {
    3: 2,
    6: 3,
    8: 1,
    4: 2,
    5: 3,
    7: 1,
}  # to the left; the even ones up to 4, and 5 and 7, mirror afterwards


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """A view of stored pixels ``(H, W, ...)`` as they are to be shown.

    Args:
        orientation: EXIF's, 1 to 8; others count as 1.
    """
    turned = np.rot90(pixels, _QUARTERS.get(orientation, 0))
    return turned[:, ::-1] if orientation in (2, 4, 5, 7) else turned


def swaps_sides(orientation: int) -> bool:
    """Whether turning a picture upright exchanges its width and height."""
    return orientation in (5, 6, 7, 8)
