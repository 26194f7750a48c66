"""PNG files of our own: read by others as they were meant, and as small as libpng's."""

import io
import sys
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from vimzoo.pictures import png_encoder
from vimzoo.pictures.formats import png
from vimzoo.pictures.picture import Picture


def written(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    png._write(file, Picture(pixels), 95)
    return file.getvalue()


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16))
@pytest.mark.parametrize("channels", (1, 2, 3, 4))
def test_other_decoders_read_the_same(channels: int, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of a few rows too, and compressed by Python's own library."""
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(37) * 7, np.arange(29) * 3)[..., None] + rng.integers(
        0, 9, (37, 29, channels)
    )
    whole = rng.integers(0, np.iinfo(dtype).max, (37, 29, channels), dtype=dtype, endpoint=True)
    for pixels in (smooth.astype(dtype), whole, whole[:1, :1], whole[:, ::2], np.zeros_like(whole)):
        assert np.array_equal(
            np.atleast_3d(imagecodecs.png_decode(written(pixels))), pixels.reshape(pixels.shape)
        )
        if dtype == np.uint8:
            assert np.array_equal(np.atleast_3d(np.asarray(Image.open(io.BytesIO(written(pixels))))), pixels)
    monkeypatch.setattr(png_encoder, "_BLOCK", 200)
    assert np.array_equal(np.atleast_3d(imagecodecs.png_decode(written(whole))), whole)
    rows = zlib.decompress(png_encoder.compressed(smooth.astype(dtype)))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert zlib.decompress(png_encoder.compressed(smooth.astype(dtype))) == rows


def test_chunks_of_a_large_file(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    monkeypatch.setattr(png, "_LONGEST_CHUNK", 1000)
    data = written(pixels)
    assert data.count(b"IDAT") == 5 and np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)


def test_files_are_about_as_small_as_libpngs(photograph: np.ndarray) -> None:
    for pixels in (photograph, photograph[..., :1], photograph.astype(np.uint16) * 257):
        plain = np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        assert len(written(pixels)) < 1.06 * len(imagecodecs.png_encode(plain))
