"""Scikit-learn's digits that move: clips whose classes are directions, which no single frame shows."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vimzoo.errors import UsageError

from ..record import Source
from ..splits import Splits, stratified_split

DIRECTIONS = {
    "right": (0, 1), "down right": (1, 1), "down": (1, 0), "down left": (1, -1), "left": (0, -1),
    "up left": (-1, -1), "up": (-1, 0), "up right": (-1, 1),
}  # fmt: skip
"""Class names -> rows and columns of a step."""
STEP = 2  # pixels per frame
HELD_OUT = 1797  # seed of the held-out clips, which are always the same


class MovingDigits(Dataset):
    """Clips of one digit each that moves in one of eight directions and comes back on the other side.

    The place of the first frame is uniform, so that the place in any frame alone is, whatever the direction.

    Args:
        digits: (N, 8, 8), one for each clip.
        size: side of the frames. frames: of a clip.
        norm: mean and deviation that are subtracted and divided by.
        seed: clips depend on it and on their key alone.
    """

    def __init__(self, digits: Tensor, size: int, frames: int, norm: tuple[float, float], seed: int) -> None:
        self.digits, self.size, self.frames, self.norm, self.seed = digits, size, frames, norm, seed

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, key: int | tuple[int, ...]) -> tuple[Tensor, int]:
        """A clip (1, frames, size, size) and the number of its direction, by ``index`` or ``(epoch, index)``."""
        numbers = key if isinstance(key, tuple) else (0, key)
        index = numbers[1]
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} clips")
        draws = np.random.default_rng([self.seed, *numbers])
        label = int(draws.integers(len(DIRECTIONS)))
        row, column = (int(place) for place in draws.integers(self.size, size=2))
        down, right = tuple(DIRECTIONS.values())[label]
        canvas = torch.zeros(self.size, self.size)
        canvas[:8, :8] = self.digits[index]
        clip = torch.stack(
            [
                canvas.roll((row + STEP * down * frame, column + STEP * right * frame), (0, 1))
                for frame in range(self.frames)
            ]
        )
        return ((clip - self.norm[0]) / self.norm[1]).unsqueeze(0), label


def bundled_moving_digits(
    img_size: int | None = 24,
    frames: int = 4,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    *,
    aug: Mapping[str, Any] | None = None,
    seed: int = 0,
    pretrained_cfg: Mapping[str, Any] | None = None,
) -> Splits:
    """Clips of scikit-learn's digits; the class is the direction in which a digit moves, two pixels per frame.

    Training clips have another direction and place in every epoch. Held-out ones are always the same; their digits
    are not among those of training.

    Args:
        img_size: side of the frames in pixels; None means 24.
        frames: of a clip.
        val_fraction, test_fraction: shares of the digits that are held out.
        aug: must be empty: reflected or rotated clips would have other classes.
        seed: of the training clips.
        pretrained_cfg: unused; clips have their own size and normalisation.

    Raises:
        UsageError: an augmentation, a size below 8 or fewer than two frames.
    """
    from sklearn.datasets import load_digits

    size = 24 if img_size is None else img_size
    if size < 8:
        raise UsageError(f"`img_size`={img_size}: expected at least 8 pixels, a digit")
    if frames < 2:
        raise UsageError(f"`frames`={frames}: expected at least 2, as one frame shows no direction")
    if aug:
        raise UsageError(f"`aug`: moving digits take no augmentation, not {', '.join(aug)}")
    source = load_digits()
    digits = torch.from_numpy(source.images).float() / 16
    train, val, test = (
        torch.from_numpy(part) for part in stratified_split(source.target, val_fraction, test_fraction)
    )
    share = 64 / size**2  # of the frame that a digit covers
    mean = digits[train].mean().item() * share
    norm = (mean, ((digits[train] ** 2).mean().item() * share - mean**2) ** 0.5)
    return Splits(
        name="moving digits (of scikit-learn)",
        train=MovingDigits(digits[train], size, frames, norm, seed),
        val=MovingDigits(digits[val], size, frames, norm, HELD_OUT),
        test=MovingDigits(digits[test], size, frames, norm, HELD_OUT) if len(test) else None,
        classes=tuple(DIRECTIONS),
        input_size=(1, size, size),
        mean=norm[:1],
        std=norm[1:],
        frames=frames,
    )


SOURCE = Source("moving_digits", bundled_moving_digits)
