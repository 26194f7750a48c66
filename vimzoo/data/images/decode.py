"""Pictures of 8 bits, as training, evaluation, prediction and the demo page take them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from vimzoo.pictures import exif
from vimzoo.pictures.eight_bits import any_as_8_bits
from vimzoo.pictures.orientation import swaps_sides, upright_image
from vimzoo.pictures.picture import PictureError
from vimzoo.pictures.reading import open_file, picture_header, requested
from vimzoo.pictures.record import Request

MODES = {1: "L", 3: "RGB"}  # Pillow's, by channels
DAMAGED = (OSError, ValueError)
"""What `read_image` raises."""
UnreadablePicture = PictureError


def read_image(
    source: Path | str | IO[bytes], mode: str = "RGB", upright: bool = True, max_pixels: float = math.inf
) -> Image.Image:
    """A picture of 8 bits, of several the first.

    Integers of more bits are scaled by the range of their type, floating point numbers from 0..1. Transparency is left
    out.

    Args:
        mode: ``RGB``, or ``L`` for grey.
        upright: turn it as its EXIF orientation says.
        max_pixels: refuse larger ones.

    Raises:
        OSError: it cannot be opened.
        UnreadablePicture: it is no picture, damaged, too large, or has further bands or pixels of unknown range.
    """
    with open_file(source) as file:
        picture = requested(file, Request(max_pixels, "first", whole=False))
    if picture.bands is not None:
        colours, bands = picture.pixels.shape[2] // 2 * 2 + 1, picture.bands.shape[2]
        raise UnreadablePicture(f"{bands} bands besides {min(colours, 3)} of grey or colour; expected none")
    image = picture.image
    if image is None:
        pixels = any_as_8_bits(picture.pixels[..., : 3 if picture.pixels.shape[2] > 2 else 1])
        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
    image = image if image.mode == mode else image.convert(mode)
    return upright_image(image, exif.orientation(picture.exif)) if upright else image


def size_of(source: Path | str | IO[bytes], upright: bool = True) -> tuple[int, int]:
    """Height and width of the picture that `read_image` gives, from the file's header.

    Raises:
        OSError, UnreadablePicture: as there.
    """
    width, height, orientation = picture_header(source)
    return (width, height) if upright and swaps_sides(orientation) else (height, width)
