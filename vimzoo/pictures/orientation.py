"""Turns pixels upright, by the orientations that EXIF defines."""

import numpy as np
from PIL import Image

__all__ = ["swaps_sides", "upright", "upright_image"]

_QUARTERS = {
    3: 2,
    6: 3,
    8: 1,
    4: 2,
    5: 3,
    7: 1,
}  # to the left; the even ones up to 4, and 5 and 7, mirror afterwards
_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """A view of stored pixels ``(H, W, ...)`` as they are to be shown.

    Args:
        orientation: EXIF's, 1 to 8; others count as 1.
    """
    turned = np.rot90(pixels, _QUARTERS.get(orientation, 0))
    return turned[:, ::-1] if orientation in (2, 4, 5, 7) else turned


def upright_image(image: Image.Image, orientation: int) -> Image.Image:
    """`upright` for an image of Pillow's; the image itself if it is upright."""
    turn = _TRANSPOSED.get(orientation)
    return image if turn is None else image.transpose(turn)


def swaps_sides(orientation: int) -> bool:
    """Whether turning a picture upright exchanges its width and height."""
    return orientation in (5, 6, 7, 8)
