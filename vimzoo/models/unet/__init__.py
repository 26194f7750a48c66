"""UNet: a decoder on the feature maps of any backbone, for segmentation without published weights.

After `U-Net: Convolutional Networks for Biomedical Image Segmentation`, Ronneberger, Fischer & Brox, MICCAI 2015,
arXiv:1505.04597; the decoder's layers are our own choice.
"""

from collections.abc import Iterable
from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import nn

from ..facts import SegmentationFacts
from ..family import Family
from ..weights.dialect import Dialect, Slot
from ..weights.loading import build_model
from .model import UNet

__all__ = ["FAMILY", "UNET_FACTS", "UNet"]

UNET_FACTS: dict[str, SegmentationFacts] = {
    facts.name: facts
    for facts in (
        SegmentationFacts(
            "unet", args=dict(backbone="vmamba_tiny_s1l8"), paper="1505.04597", params=33_357_826,
            start="the backbone's weights", note="a decoder of our own on any backbone of timm: `model.backbone=NAME`",
        ),
        SegmentationFacts(
            "test_unet", args=dict(backbone="test_vmamba", width=16), input_size=(3, 64, 64), params=306_610,
            paper="1505.04597", note="for tests",
        ),
    )
}  # fmt: skip
"""By registered name."""


def _slots(module: nn.Module) -> list[Slot]:
    return [Slot(name, name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()]


def holds_unet(names: Iterable[str]) -> bool:
    """Whether a state dict with these names is a UNet's."""
    known = set(names)
    return {"lateral.weight", "decoder.0.0.weight"} <= known


FAMILY = Family(
    "UNet",
    UNET_FACTS,
    Dialect((UNet,), _slots, lambda names: False, dict),
    lambda state: UNet if holds_unet(state) else None,
)

default_cfgs = generate_default_cfgs(
    {
        name: cfg
        for facts in UNET_FACTS.values()
        for name, cfg in facts.timm_cfgs(first_conv=None, classifier="head").items()
    }
)


def _create_unet(variant: str, pretrained: bool = False, **kwargs: Any) -> UNet:
    return build_model(
        UNet, variant, pretrained, lambda state, model: state, **{**UNET_FACTS[variant].args, **kwargs}
    )


@register_model
def unet(pretrained: bool = False, **kwargs: Any) -> UNet:
    """A decoder on a backbone, VMamba-T unless ``backbone`` names another."""
    return _create_unet("unet", pretrained, **kwargs)


@register_model
def test_unet(pretrained: bool = False, **kwargs: Any) -> UNet:
    """A small model for tests."""
    return _create_unet("test_unet", pretrained, **kwargs)
