"""Two networks that are written in a second, with what the commands must know of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vimzoo.exporting import FORMATS, Source
from vimzoo.models.restoration_base import RestorationModel
from vimzoo.restoration import Restorer

CLASSES = ["ant", "bee", "cat", "dog", "elk"]
FACTS: dict[str, dict[str, Any]] = {
    "classifier": {
        "model": "tiny",
        "num_classes": 5,
        "label_names": CLASSES,
        "input_size": (3, 24, 24),
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.4),
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
    },
    "restorer": {"model": "tiny", "num_classes": 0, "scale": 2, "input_size": (3, 16, 16)},
}


def network(what: str) -> nn.Module:
    """A classifier, or a network that enlarges twofold."""
    torch.manual_seed(0)
    if what == "classifier":
        layers = nn.Conv2d(3, 8, 5, 2), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        model = nn.Sequential(*layers)
        model[-1].weight.data *= 30
    else:
        model = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))
    return model.eval().requires_grad_(False)


def written(what: str, form: str, folder: Path, size: int | None = None) -> Path:
    """A file of `network` for images of one size, or of any."""
    side = size or FACTS[what]["input_size"][1]
    path = folder / f"{what}{size or ''}{FORMATS[form].suffix}"
    FORMATS[form].save(Source(network(what), torch.rand(2, 3, side, side), size is None, FACTS[what]), path)
    return path


def picture(path: Path, height: int = 41, width: int = 33) -> np.ndarray:
    """Writes a picture; returns its pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def spread_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """The largest difference, as a share of the standard deviation of what is wanted."""
    return ((got - want).abs().max() / want.std()).item()


class Doubler(RestorationModel):
    """The network that enlarges, as PyTorch runs it."""

    def __init__(self, multiple_of: int = 1) -> None:
        super().__init__()
        self.network, self.feature_info = network("restorer"), []
        self.in_chans, self.scale, self.multiple_of = 3, 2, multiple_of

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def restored(path: Path, tile: int, overlap: int | None = None, multiple_of: int = 1) -> np.ndarray:
    """What PyTorch makes of a picture in the same tiles."""
    pixels = np.array(Image.open(path))
    return Restorer(Doubler(multiple_of), tile=tile, overlap=overlap)(pixels)
