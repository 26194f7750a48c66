"""Colours of classes, for overlays and palettes."""

from __future__ import annotations

import numpy as np

__all__ = ["overlay", "palette"]


def palette(classes: int = 256) -> np.ndarray:
    """Colours by class number, (classes, 3) uint8: those of Pascal VOC, with black for class 0."""
    numbers = np.arange(classes)
    colours = np.zeros((classes, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((numbers >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def overlay(image: np.ndarray, mask: np.ndarray, ignore_index: int = 255, share: float = 0.5) -> np.ndarray:
    """An image with the colours of its classes; class 0 and ignored pixels stay as they are.

    Args:
        image: (H, W, 3) uint8. mask: Class numbers (H, W).
        ignore_index: Class number of pixels that do not count.
        share: Of the colours, 0..1.

    Returns:
        (H, W, 3) uint8.
    """
    marked = (mask != 0) & (mask != ignore_index)
    colours = palette()[np.where(marked, mask, 0) % 256]
    mixed = image * (1 - share) + colours * share
    return np.where(marked[..., None], mixed.round().astype(np.uint8), image)
