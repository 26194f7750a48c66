"""A configuration small enough for tests, and image folders made on the spot."""

import copy
import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from vimzoo.engine import loop as loop_module
from vimzoo.engine.configuration.composing import compose_settings


def composed(*overrides: str) -> dict[str, Any]:
    """The configuration that these command-line overrides give, composed once."""
    return copy.deepcopy(_composed(overrides))


_composed = functools.cache(compose_settings)


def small(*overrides: str) -> dict[str, Any]:
    """Digits at 8 px through a tiny convolutional net: a run of three steps in well under a second."""
    return composed(
        "model=timm",
        "model.model_name=test_resnet",
        "data.img_size=8",
        "data.batch_size=32",
        "run.epochs=1",
        "run.limit_batches=3",
        "run.device=cpu",
        *overrides,
    )


def calling(
    number: int, action: Callable[[], None], real: Any = loop_module.train_step
) -> Callable[..., Any]:
    """A training step that calls ``action`` when it is called for the ``number``-th time."""
    calls: list[int] = []

    def step(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            action()
        return real(*args)

    return step


def stopping(number: int) -> Callable[..., Any]:
    """A training step before whose ``number``-th call this process is asked to stop."""
    return calling(number, lambda: os.kill(os.getpid(), signal.SIGTERM))


def make_images(root: Path, layout: dict[str, int], size: int = 40, seed: int = 0) -> Path:
    """Coloured noise: ``layout`` maps a class folder (such as ``train/cat``) to its number of images."""
    rng = np.random.RandomState(seed)
    for place, (name, count) in enumerate(layout.items()):
        folder = root / name
        folder.mkdir(parents=True)
        for index in range(count):
            pixels = rng.randint(0, 120, (size, size + 8, 3), dtype=np.uint8)
            pixels[..., place % 3] += 120
            Image.fromarray(pixels).save(folder / f"{index}.jpg")
    return root


def same_tensors(a: Any, b: Any) -> bool:
    """Whether two nested containers hold bitwise equal tensors and equal values."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_tensors(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same_tensors, a, b))
    return a == b


class Constant(nn.Module):
    """Logits that do not depend on the image."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(x), -1)
