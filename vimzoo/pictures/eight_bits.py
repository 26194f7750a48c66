"""Pixels of any numbers as 8 bits."""

import numpy as np

from .numbers import eight_bits
from .picture import PictureError

__all__ = ["any_as_8_bits"]


def any_as_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Integers by the range of their type, floating point from 0..1.

    Raises:
        PictureError: numbers are negative, or floating point outside of 0..1.
    """
    if pixels.dtype.kind == "f":
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 1):
            raise PictureError(f"floating point pixels from {low:g} to {high:g}; expected 0 to 1")
        top = 1.0
    elif pixels.dtype in (np.uint8, np.uint16):
        return eight_bits(pixels)
    else:
        top = float(np.iinfo(pixels.dtype).max)
        if pixels.min() < 0:
            raise PictureError(
                f"negative pixels, from {pixels.min()} to {pixels.max()}; expected 0 to {top:.0f}"
            )
    return np.rint(pixels.astype(np.float64) * (255 / top)).astype(np.uint8)
