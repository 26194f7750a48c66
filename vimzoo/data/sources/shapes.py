"""Shapes on textures, drawn on the fly: a segmentation task without a download."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from vimzoo.errors import UsageError

from ..pairs.photos import photo_files
from ..record import Source
from ..splits import Splits

CLASSES = ("gravel", "brick", "grass")
"""Textures that ship with scikit-image; the first is the background."""
NORM = (0.4, 0.2)


class Shapes(Dataset):
    """Grey images (1, S, S) of discs, squares and triangles that are cut out of textures, which are their classes, and
    masks (S, S) int64; determined by the key.

    Args:
        textures: Grey textures (h, w) in 0..1, larger than the images, by class.
        size: Side of the images.
        count: Images per epoch.
        seed: Of all that is drawn.
    """

    def __init__(self, textures: list[np.ndarray], size: int, count: int, seed: list[int]) -> None:
        self.textures, self.size, self.count, self.seed = textures, size, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([*self.seed, *(key if isinstance(key, tuple) else (key,))])
        image, mask = self._surface(0, rng), np.zeros((self.size, self.size), dtype=np.int64)
        for _ in range(rng.integers(1, 4)):
            number, inside = int(rng.integers(1, len(CLASSES))), _shape(self.size, rng)
            image, mask = np.where(inside, self._surface(number, rng), image), np.where(inside, number, mask)
        pixels = torch.from_numpy(image.astype(np.float32))[None]
        return (pixels - NORM[0]) / NORM[1], torch.from_numpy(mask)

    def _surface(self, number: int, rng: np.random.Generator) -> np.ndarray:
        """A part of a texture, brightened or darkened."""
        texture = self.textures[number]
        top, left = (int(rng.integers(side - self.size + 1)) for side in texture.shape)
        part = texture[top : top + self.size, left : left + self.size]
        return (part * rng.uniform(0.6, 1.0) + rng.uniform(0.0, 0.2)).clip(0, 1)


def _shape(size: int, rng: np.random.Generator) -> np.ndarray:
    """The pixels of a turned shape somewhere in the image, (size, size) bool."""
    radius, angle, corners = size * rng.uniform(0.15, 0.3), rng.uniform(0, 2 * np.pi), int(rng.integers(2, 5))
    middle = rng.uniform(radius, size - radius, 2)
    rows, columns = np.ogrid[:size, :size]
    y, x = rows + 0.5 - middle[0], columns + 0.5 - middle[1]
    if corners == 2:
        return y**2 + x**2 <= radius**2
    turns = angle + 2 * np.pi * np.arange(corners)[:, None, None] / corners
    return (y * np.cos(turns) + x * np.sin(turns) <= np.cos(np.pi / corners) * radius).all(0)


def drawn_shapes(
    img_size: int | None = 64,
    count: int = 800,
    *,
    aug: Mapping[str, Any] | None = None,
    seed: int = 0,
    pretrained_cfg: Mapping[str, Any] | None = None,
) -> Splits:
    """Shapes of brick and of grass on gravel, of the textures that ship with scikit-image.

    Validation and test images are always the same, from other parts of the textures than training images.

    Args:
        img_size: Side of the images; None means 64.
        count: Training images per epoch.
        aug: Takes nothing; every image is new.
        seed: Of the training images.
        pretrained_cfg: Unused.

    Raises:
        UsageError: a number is out of range, there is an augmentation, or scikit-image is missing.
    """
    size = 64 if img_size is None else img_size
    if not 16 <= size <= 256:
        raise UsageError(f"`img_size`={img_size}: expected 16 to 256 pixels")
    if count < 1:
        raise UsageError(f"`count`={count}: expected at least 1")
    if aug:
        raise UsageError(f"`aug`: every shape is drawn anew, so nothing is augmented; got {', '.join(aug)}")
    files = {path.stem: path for path in photo_files("train")}
    textures = [np.asarray(Image.open(files[name]).convert("L"), dtype=np.float32) / 255 for name in CLASSES]
    halves = [[texture[:256] for texture in textures], [texture[256:] for texture in textures]]
    train = Shapes(halves[0], size, count, [seed, 0])
    val, test = (Shapes(halves[1], size, held, [0, part]) for part, held in ((1, 100), (2, 200)))
    sample = torch.stack([train[0, index][1] for index in range(min(count, 200))])
    return Splits(
        name="shapes on textures (bundled with scikit-image)",
        train=train,
        val=val,
        test=test,
        classes=CLASSES,
        input_size=(1, size, size),
        mean=NORM[:1],
        std=NORM[1:],
        pixels=sample.flatten().bincount(minlength=len(CLASSES)).numpy(),
    )


SOURCE = Source("shapes", drawn_shapes, targets="masks")
