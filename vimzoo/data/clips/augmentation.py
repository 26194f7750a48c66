"""timm's augmentation of images for clips: what is drawn at random is the same for all frames."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import auto_augment_transform, rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from vimzoo.errors import UsageError


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's, NumPy's and torch's global generators, which timm draws from, begin at ``seed`` within the block."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@cache
def policy(name: str, size: int, mean: tuple[float, ...]) -> Any:
    """timm's augmentation of a name such as ``"rand-m7-n4-mstd0.5-inc1"`` or ``"v0"``.

    Args:
        size: Side of the frames in pixels, which shifts are a part of.
        mean: Colour of what comes in from outside, in [0, 1].

    Raises:
        UsageError: timm knows no such augmentation.
    """
    settings = dict(translate_const=int(size * 0.45), img_mean=tuple(min(255, round(255 * x)) for x in mean))
    try:
        make = rand_augment_transform if name.startswith("rand") else auto_augment_transform
        return make(name, settings)
    except (AssertionError, KeyError, ValueError) as error:
        raise UsageError(
            f"`aug`: auto_augment={name} is none of timm's, such as rand-m7-n4-mstd0.5-inc1"
        ) from error


def auto_augmented(
    frames: np.ndarray, name: str, size: int, mean: Sequence[float], draws: np.random.Generator
) -> np.ndarray:
    """Frames (T, H, W, 3) of uint8, changed alike; see `policy`."""
    change, seed = policy(name, size, tuple(mean)), int(draws.integers(1 << 32))
    changed = []
    for frame in frames:
        with seeded(seed):
            changed.append(np.asarray(change(Image.fromarray(frame))))
    return np.stack(changed)


def erased(clip: Tensor, chance: float, draws: np.random.Generator) -> Tensor:
    """A normalised clip (C, T, H, W) with noise in a rectangle of all its frames, at a chance."""
    if draws.uniform() >= chance:
        return clip
    channels = clip.flatten(0, 1).clone()
    with seeded(int(draws.integers(1 << 32))):
        return RandomErasing(1.0, mode="pixel", device="cpu")(channels).view_as(clip)
