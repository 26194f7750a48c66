"""EfficientVMamba: facts about its models, and their registration with timm.

`EfficientVMamba: Atrous Selective Scan for Light Weight Visual Mamba`, Pei et al., arXiv:2403.09977; code and
weights by its authors at https://github.com/TerryPei/EfficientVMamba (Apache-2.0 according to its README).
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model

from ..facts import ModelFacts
from ..family import Family
from ..vmamba.class_maps import cam_arguments
from ..weights.loading import build_model, map_features
from .model import EfficientVMamba
from .names import EFFICIENT_VMAMBA, checkpoint_filter_fn, holds_efficient_vmamba

__all__ = ["EFFICIENT_VMAMBA_FACTS", "FAMILY", "EfficientVMamba", "checkpoint_filter_fn"]

_SOURCE: dict[str, Any] = dict(origin="https://github.com/TerryPei/EfficientVMamba", paper="2403.09977")
_README = "https://github.com/TerryPei/EfficientVMamba#main-results"
_PUBLISHED: dict[str, Any] = dict(gflops_source=_README, score_source=_README)
_RECIPE = (
    "ImageNet-1k, 300 epochs, AdamW, lr 2e-3 after 20 warm-up epochs, weight decay 0.04, gradients clipped at 1, EMA "
    "0.9999, drop path 0.1, RandAugment, Mixup 0.2, CutMix 1.0, random erasing 0.25; "
)


def _note(size: str, more: str = "") -> str:
    where = f"huggingface.co/TerryPei/EfficientVMamba-{size}"
    return f"the authors' file is in {where}; vimzoo.load_checkpoint reads it{more}"


EFFICIENT_VMAMBA_FACTS: dict[str, ModelFacts] = {
    facts.name: facts
    for facts in (
        ModelFacts(
            "efficient_vmamba_tiny", "", args=dict(dims=48), params=6_493_660, gflops=0.8, top1=76.5,
            recipe=_RECIPE + "batch 2048", note=_note("Tiny"), **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "efficient_vmamba_small", "", args=dict(dims=64), params=11_273_688, gflops=1.3, top1=78.7,
            recipe=_RECIPE + "batch 2048",
            note=_note("Small", ". Their configuration says a width of 96, their log 64"), **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "efficient_vmamba_base", "", args=dict(dims=96, depths=(2, 2, 9, 2)), params=33_717_136, gflops=4.0,
            top1=81.8, recipe=_RECIPE + "batch 1024", note=_note("Base"), **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "test_efficient_vmamba", "", args=dict(depths=(1, 1, 1, 1), dims=(24, 32, 48, 64), d_state=2),
            input_size=(3, 64, 64), params=191_375, note="for tests", **_SOURCE,
        ),
    )
}  # fmt: skip
"""By registered name."""

FAMILY = Family(
    "EfficientVMamba",
    EFFICIENT_VMAMBA_FACTS,
    EFFICIENT_VMAMBA,
    lambda state: EfficientVMamba if holds_efficient_vmamba(state) else None,
    cam=cam_arguments,
)

default_cfgs = generate_default_cfgs(
    {
        name: cfg
        for facts in EFFICIENT_VMAMBA_FACTS.values()
        for name, cfg in facts.timm_cfgs(
            first_conv="patch_embed.conv1",
            classifier="head.fc",
            pool_size=(facts.input_size[1] // 32, facts.input_size[2] // 32),
        ).items()
    }
)


def _create_efficient_vmamba(variant: str, pretrained: bool = False, **kwargs: Any) -> EfficientVMamba:
    """With ``features_only=True``, ``output_fmt="NHWC"`` gives maps with channels last."""
    return build_model(
        EfficientVMamba,
        variant,
        pretrained,
        checkpoint_filter_fn,
        feature_cfg=map_features(kwargs),
        **{**EFFICIENT_VMAMBA_FACTS[variant].args, **kwargs},
    )


@register_model
def efficient_vmamba_tiny(pretrained: bool = False, **kwargs: Any) -> EfficientVMamba:
    """EfficientVMamba-T."""
    return _create_efficient_vmamba("efficient_vmamba_tiny", pretrained, **kwargs)


@register_model
def efficient_vmamba_small(pretrained: bool = False, **kwargs: Any) -> EfficientVMamba:
    """EfficientVMamba-S."""
    return _create_efficient_vmamba("efficient_vmamba_small", pretrained, **kwargs)


@register_model
def efficient_vmamba_base(pretrained: bool = False, **kwargs: Any) -> EfficientVMamba:
    """EfficientVMamba-B."""
    return _create_efficient_vmamba("efficient_vmamba_base", pretrained, **kwargs)


@register_model
def test_efficient_vmamba(pretrained: bool = False, **kwargs: Any) -> EfficientVMamba:
    """A small model for tests."""
    return _create_efficient_vmamba("test_efficient_vmamba", pretrained, **kwargs)
