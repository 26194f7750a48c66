"""Small models and pictures that the tests of restoration share."""

import numpy as np
import pytest
import timm
import torch
from film_models import Same
from sklearn.datasets import load_sample_image

from vimzoo.models import MambaIR, MambaIRUNet, MambaIRv2
from vimzoo.restoration import Restorer

MICRO = dict(embed_dim=32, depths=(1, 1), d_state=4)
BUILDS = {
    "light_x2": lambda: timm.create_model("test_mambair"),
    "light_x3": lambda: MambaIR(**MICRO, scale=3, upsampler="pixelshuffledirect"),
    "dn": lambda: MambaIR(**MICRO),
    "car": lambda: MambaIR(**MICRO, in_chans=1),
    "grey_x2": lambda: MambaIR(**MICRO, in_chans=1, scale=2, upsampler="pixelshuffle"),
    "unet": lambda: MambaIRUNet(embed_dim=32, depths=(1, 1, 1, 1), refinement_depth=1, d_state=4),
    "v2": lambda: MambaIRv2(
        **MICRO, num_heads=4, window=8, rank=6, num_tokens=10, scale=2, upsampler="pixelshuffledirect"
    ),
}


@pytest.fixture
def small():
    """Builds a small model by its kind, with random weights none of which is without effect."""

    def build(kind: str) -> torch.nn.Module:
        torch.manual_seed(0)
        model = BUILDS[kind]().eval()
        for name, parameter in model.named_parameters():
            if "scale" in name or "skip" in name or parameter.dim() == 1:
                torch.nn.init.normal_(parameter, 1.0 if "weight" in name else 0.1, 0.1)
        return model

    return build


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """(427, 640, 3) uint8."""
    return np.ascontiguousarray(load_sample_image("flower.jpg"))


@pytest.fixture
def same() -> Restorer:
    return Restorer(Same())


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("film", "film_work"):
        monkeypatch.setattr(f"vimzoo.restoration.{module}.SEGMENT", 3)
