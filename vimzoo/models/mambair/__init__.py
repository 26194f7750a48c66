"""MambaIR and MambaIRv2: registration with timm; the facts about each model are in `facts.py`.

`MambaIR: A Simple Baseline for Image Restoration with State-Space Model`, Guo et al., ECCV 2024, arXiv:2402.15648, and
`MambaIRv2: Attentive State Space Restoration`, Guo et al., CVPR 2025, arXiv:2411.15269; code and weights by their
authors at https://github.com/csguoh/MambaIR (Apache-2.0).

Names follow the authors' option files: ``sr`` and ``light`` super-resolution, ``dn`` denoising, ``car`` removal of JPEG
artefacts. Light networks from before October 2024 are not registered; `load_restoration` recognises them by their
tensors.
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model

from ..family import Family
from ..weights.loading import build_model
from .facts import MAMBAIR_FACTS
from .from_tensors import detect, infer
from .model import MambaIR
from .names import MAMBAIR, checkpoint_filter_fn
from .unet import MambaIRUNet
from .v2 import MambaIRv2

__all__ = ["FAMILY", "MAMBAIR_FACTS", "MambaIR", "MambaIRUNet", "MambaIRv2", "checkpoint_filter_fn"]

FAMILY = Family("MambaIR", MAMBAIR_FACTS, MAMBAIR, detect, infer, networks=(MambaIR, MambaIRv2, MambaIRUNet))

default_cfgs = generate_default_cfgs(
    {
        name: cfg
        for facts in MAMBAIR_FACTS.values()
        for name, cfg in facts.timm_cfgs(first_conv="conv_first").items()
    }
)


def _create(model_cls: Any, variant: str, pretrained: bool, **kwargs: Any) -> Any:
    if kwargs.pop("features_only", False):
        raise ValueError("features_only: a restoration model has maps of one size, see forward_features")
    return build_model(
        model_cls,
        variant,
        pretrained,
        checkpoint_filter_fn,
        kwargs_filter=("num_classes", "global_pool"),
        **{**MAMBAIR_FACTS[variant].args, **kwargs},
    )


@register_model
def mambair_sr_x2(pretrained: bool = False, **kwargs: Any) -> MambaIR:
    """MambaIR for super-resolution x2."""
    return _create(MambaIR, "mambair_sr_x2", pretrained, **kwargs)


@register_model
def mambair_sr_x3(pretrained: bool = False, **kwargs: Any) -> MambaIR:
    """MambaIR for super-resolution x3."""
    return _create(MambaIR, "mambair_sr_x3", pretrained, **kwargs)


@register_model
def mambair_sr_x4(pretrained: bool = False, **kwargs: Any) -> MambaIR:
    """MambaIR for super-resolution x4."""
    return _create(MambaIR, "mambair_sr_x4", pretrained, **kwargs)


@register_model
def mambair_light_x2(pretrained: bool = False, **kwargs: Any) -> MambaIR:
    """MambaIR for light super-resolution x2."""
    return _create(MambaIR, "mambair_light_x2", pretrained, **kwargs)


@register_model
def mambair_light_x3(pretrained: bool = False, **kwargs: Any) -> MambaIR:
    """MambaIR for light super-resolution x3."""
    return _create(MambaIR, "mambair_light_x3", pretrained, **kwargs)


@register_model
def mambair_light_x4(pretrained: bool = False, **kwargs: Any) -> MambaIR:
    """MambaIR for light super-resolution x4."""
    return _create(MambaIR, "mambair_light_x4", pretrained, **kwargs)


@register_model
def mambair_realsr_x4(pretrained: bool = False, **kwargs: Any) -> MambaIR:
    """MambaIR for super-resolution x4 of real photographs: the classic network."""
    return _create(MambaIR, "mambair_realsr_x4", pretrained, **kwargs)


@register_model
def mambair_dn(pretrained: bool = False, **kwargs: Any) -> MambaIR:
    """MambaIR for colour denoising; one network for all noise levels, which the tags name."""
    return _create(MambaIR, "mambair_dn", pretrained, **kwargs)


@register_model
def mambair_car(pretrained: bool = False, **kwargs: Any) -> MambaIR:
    """MambaIR for removal of JPEG artefacts from grey images; the tags name the quality."""
    return _create(MambaIR, "mambair_car", pretrained, **kwargs)


@register_model
def mambair_mini_dn(pretrained: bool = False, **kwargs: Any) -> MambaIR:
    """A very small MambaIR for colour denoising, whose weights are part of this package."""
    return _create(MambaIR, "mambair_mini_dn", pretrained, **kwargs)


@register_model
def mambair_mini_x2(pretrained: bool = False, **kwargs: Any) -> MambaIR:
    """A very small MambaIR for super-resolution x2, whose weights are part of this package."""
    return _create(MambaIR, "mambair_mini_x2", pretrained, **kwargs)


@register_model
def mambair_realdn_unet(pretrained: bool = False, **kwargs: Any) -> MambaIRUNet:
    """MambaIR's U-Net for denoising of real photographs; sides are multiples of 8."""
    return _create(MambaIRUNet, "mambair_realdn_unet", pretrained, **kwargs)


@register_model
def mambairv2_sr_small_x2(pretrained: bool = False, **kwargs: Any) -> MambaIRv2:
    """MambaIRv2-S for super-resolution x2."""
    return _create(MambaIRv2, "mambairv2_sr_small_x2", pretrained, **kwargs)


@register_model
def mambairv2_sr_small_x3(pretrained: bool = False, **kwargs: Any) -> MambaIRv2:
    """MambaIRv2-S for super-resolution x3."""
    return _create(MambaIRv2, "mambairv2_sr_small_x3", pretrained, **kwargs)


@register_model
def mambairv2_sr_small_x4(pretrained: bool = False, **kwargs: Any) -> MambaIRv2:
    """MambaIRv2-S for super-resolution x4."""
    return _create(MambaIRv2, "mambairv2_sr_small_x4", pretrained, **kwargs)


@register_model
def mambairv2_sr_base_x2(pretrained: bool = False, **kwargs: Any) -> MambaIRv2:
    """MambaIRv2-B for super-resolution x2."""
    return _create(MambaIRv2, "mambairv2_sr_base_x2", pretrained, **kwargs)


@register_model
def mambairv2_sr_base_x3(pretrained: bool = False, **kwargs: Any) -> MambaIRv2:
    """MambaIRv2-B for super-resolution x3."""
    return _create(MambaIRv2, "mambairv2_sr_base_x3", pretrained, **kwargs)


@register_model
def mambairv2_sr_base_x4(pretrained: bool = False, **kwargs: Any) -> MambaIRv2:
    """MambaIRv2-B for super-resolution x4."""
    return _create(MambaIRv2, "mambairv2_sr_base_x4", pretrained, **kwargs)


@register_model
def mambairv2_sr_large_x2(pretrained: bool = False, **kwargs: Any) -> MambaIRv2:
    """MambaIRv2-L for super-resolution x2."""
    return _create(MambaIRv2, "mambairv2_sr_large_x2", pretrained, **kwargs)


@register_model
def mambairv2_sr_large_x3(pretrained: bool = False, **kwargs: Any) -> MambaIRv2:
    """MambaIRv2-L for super-resolution x3."""
    return _create(MambaIRv2, "mambairv2_sr_large_x3", pretrained, **kwargs)


@register_model
def mambairv2_sr_large_x4(pretrained: bool = False, **kwargs: Any) -> MambaIRv2:
    """MambaIRv2-L for super-resolution x4."""
    return _create(MambaIRv2, "mambairv2_sr_large_x4", pretrained, **kwargs)


@register_model
def mambairv2_light_x2(pretrained: bool = False, **kwargs: Any) -> MambaIRv2:
    """MambaIRv2 for light super-resolution x2."""
    return _create(MambaIRv2, "mambairv2_light_x2", pretrained, **kwargs)


@register_model
def mambairv2_light_x3(pretrained: bool = False, **kwargs: Any) -> MambaIRv2:
    """MambaIRv2 for light super-resolution x3."""
    return _create(MambaIRv2, "mambairv2_light_x3", pretrained, **kwargs)


@register_model
def mambairv2_light_x4(pretrained: bool = False, **kwargs: Any) -> MambaIRv2:
    """MambaIRv2 for light super-resolution x4."""
    return _create(MambaIRv2, "mambairv2_light_x4", pretrained, **kwargs)


@register_model
def mambairv2_dn(pretrained: bool = False, **kwargs: Any) -> MambaIRv2:
    """MambaIRv2 for colour denoising; one network for all noise levels, which the tags name."""
    return _create(MambaIRv2, "mambairv2_dn", pretrained, **kwargs)


@register_model
def mambairv2_car(pretrained: bool = False, **kwargs: Any) -> MambaIRv2:
    """MambaIRv2 for removal of JPEG artefacts from grey images; the tags name the quality."""
    return _create(MambaIRv2, "mambairv2_car", pretrained, **kwargs)


@register_model
def test_mambair(pretrained: bool = False, **kwargs: Any) -> MambaIR:
    """A small light MambaIR for tests."""
    return _create(MambaIR, "test_mambair", pretrained, **kwargs)
