"""Conversions between types of numbers."""

import numpy as np

__all__ = ["eight_bits", "to_16_bits", "unmultiplied"]


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Integers of 8 or 16 bits as the nearest ones of 8."""
    if pixels.dtype != np.uint16:
        return pixels
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)  # nearest: 65535 / 255 = 257


def to_16_bits(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Integers from 0 to ``2**bits - 1``, of 9 to 16 bits, as uint16 over its whole range."""
    if bits == 16:
        return pixels.astype(np.uint16, copy=False)
    top = 2**bits - 1
    return ((pixels.astype(np.uint32) * 65535 + top // 2) // top).astype(np.uint16)


def unmultiplied(pixels: np.ndarray) -> np.ndarray:
    """Undo the premultiplication of colours by alpha, the last channel; integers, or floating point in 0..1."""
    top = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1.0
    colours, alpha = pixels[..., :-1], pixels[..., -1:].astype(np.float64)
    plain = np.divide(colours * float(top), alpha, out=np.zeros(colours.shape), where=alpha > 0)
    if pixels.dtype.kind in "iu":
        plain = np.rint(plain.clip(0, top))
    return np.concatenate([plain.astype(pixels.dtype), pixels[..., -1:]], -1)
