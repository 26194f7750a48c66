"""Small networks of every kind of MambaIR by the authors' constructors, and files of them."""

from pathlib import Path

import safetensors.torch
import torch

from vimzoo.compat import mambair

MICRO = dict(embed_dim=32, d_state=4, depths=[2, 1])
MICRO_V2 = dict(MICRO, num_heads=[4, 2], window_size=8, inner_rank=6, num_tokens=10)
BUILDS = {
    "sr_x2": lambda: mambair.MambaIR(**MICRO, upscale=2, upsampler="pixelshuffle"),
    "sr_x3": lambda: mambair.MambaIR(**MICRO, upscale=3, upsampler="pixelshuffle", mlp_ratio=1.3),
    "sr_x4_3conv": lambda: mambair.MambaIR(
        **MICRO, upscale=4, upsampler="pixelshuffle", resi_connection="3conv", patch_norm=False
    ),
    "light_x3": lambda: mambair.MambaIR(**MICRO, upscale=3, upsampler="pixelshuffledirect", mlp_ratio=1.2),
    "grey": lambda: mambair.MambaIR(**MICRO, in_chans=1, upscale=1),
    "real_x4": lambda: mambair.MambaIR(**MICRO, upscale=4, upsampler="nearest+conv"),
    "unet": lambda: mambair.MambaIRUNet(
        dim=32, num_blocks=[1, 2, 1, 1], num_refinement_blocks=2, mlp_ratio=1.2
    ),
    "v2_x2": lambda: mambair.MambaIRv2(**MICRO_V2, upscale=2, upsampler="pixelshuffle"),
    "v2_light_x4": lambda: mambair.MambaIRv2Light(
        **MICRO_V2, upscale=4, upsampler="pixelshuffledirect", mlp_ratio=1.0
    ),
    "v2_dn": lambda: mambair.MambaIRv2(**MICRO_V2, convffn_kernel_size=7, qkv_bias=False),
    "v2_ape": lambda: mambair.MambaIRv2(**MICRO_V2, img_size=8, ape=True, resi_connection="3conv"),
}


def small(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = BUILDS[kind]().eval()
    for name, parameter in model.named_parameters():  # so that nothing in the network is without effect
        if "scale" in name or "skip" in name or parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 1.0 if "weight" in name else 0.1, 0.1)
    return model


def image_for(model: torch.nn.Module, height: int = 8, width: int = 8) -> torch.Tensor:
    return torch.rand(1, model.in_chans, height, width)


def as_saved(model: torch.nn.Module, form: str, path: Path) -> Path:
    official = mambair.official_state_dict(model)
    if form == "params":
        torch.save({"params": official}, path)
    elif form == "params_ema":
        torch.save({"params_ema": official}, path)
    elif form == "ours":
        torch.save(model.state_dict(), path)
    else:
        safetensors.torch.save_file({name: t.contiguous() for name, t in official.items()}, path)
    return path
