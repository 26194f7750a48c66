"""Photographs in files, for tests of pairs."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vimzoo.data.pairs.degradations import imresize, to_image
from vimzoo.metrics import to_8bit

FLIPS = {"flip": True, "rotate": True}


def make_photo(path: Path, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random image in a file; returns its pixels."""
    coarse = np.random.RandomState(seed).rand(3, height // 8 + 2, width // 8 + 2)
    smooth = imresize(torch.from_numpy(coarse).float(), 8)[:, :height, :width]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(to_8bit(smooth)).save(path)
    return to_8bit(smooth)


def make_clean(folder: Path) -> Path:
    """Ten clean images, one in a folder of its own."""
    for i in range(9):
        make_photo(folder / "clean" / f"{i}.png", 41, 50, i)
    make_photo(folder / "clean" / "more" / "9.png", 64, 36, 9)
    return folder / "clean"


def make_pairs(folder: Path) -> Path:
    """Five pairs at scale 2, named as in DIV2K; clean sizes are odd."""
    for i in range(5):
        pixels = make_photo(folder / "pairs" / "high" / f"{i}.png", 41, 51, i)
        small = imresize(to_image(pixels[:40, :50]), 0.5)
        (folder / "pairs" / "low").mkdir(exist_ok=True)
        Image.fromarray(to_8bit(small)).save(folder / "pairs" / "low" / f"{i}x2.png")
    return folder / "pairs"
