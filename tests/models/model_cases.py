"""Small models, at least one of each family and of each kind of layer."""

from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

import vimzoo  # noqa: F401  registers the models
from vimzoo.models import MambaIR, MambaIRUNet, MambaIRv2

MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vim": (lambda: timm.create_model("test_vim"), (2, 3, 64, 64)),
    "vmamba": (lambda: timm.create_model("test_vmamba"), (2, 3, 64, 64)),
    "vmamba_v0": (
        lambda: timm.create_model("vmamba_tiny_v0", depths=(1, 1), dims=(16, 32), num_classes=5),
        (2, 3, 32, 32),
    ),
    "mambair": (lambda: timm.create_model("test_mambair"), (2, 3, 16, 16)),
    "mambair_3conv": (
        lambda: MambaIR(3, 32, (1,), 4, upsampler="pixelshuffle", resi_connection="3conv"), (1, 3, 12, 12)
    ),
    "unet": (lambda: MambaIRUNet(3, 3, 32, (1, 1, 1, 1), 1, d_state=2), (1, 3, 16, 16)),
    "v2": (
        lambda: MambaIRv2(3, 24, (2,), 4, 8, 4, num_tokens=8, rank=6, upsampler="pixelshuffle", routing="argmax"),
        (1, 3, 12, 12),
    ),
    "v2_light": (
        lambda: MambaIRv2(3, 24, (2,), 4, 8, 4, gated=True, upsampler="pixelshuffledirect", routing="argmax"),
        (1, 3, 8, 8),
    ),
}  # fmt: skip


def built(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape = MODELS[name]
    return make().eval(), torch.rand(shape)
