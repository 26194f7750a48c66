"""MobileMamba: facts about its models, and their registration with timm.

`MobileMamba: Lightweight Multi-Receptive Visual Mamba Network`, He et al., CVPR 2025, arXiv:2411.15941; code and
weights by its authors at https://github.com/lewandofskee/MobileMamba (MIT).
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model

from ..facts import ModelFacts
from ..family import Family
from ..staged import checkpoint_filter_fn
from ..vmamba.class_maps import cam_arguments
from ..weights.loading import build_model, map_features
from .model import MobileMamba
from .names import MOBILE_MAMBA, holds_mobile_mamba

__all__ = ["FAMILY", "MOBILE_MAMBA_FACTS", "MobileMamba", "checkpoint_filter_fn"]

_SOURCE: dict[str, Any] = dict(
    origin="https://github.com/lewandofskee/MobileMamba", paper="2411.15941", license="mit"
)
_README = "https://github.com/lewandofskee/MobileMamba#classification-results"
_PUBLISHED: dict[str, Any] = dict(gflops_source=_README, score_source=_README)
_RECIPE = (
    "ImageNet-1k, 300 epochs with 20 of warm-up, batch 1024, AdamW, lr 1.5e-3, weight decay 0.05, gradients clipped at "
    "5, EMA 0.9998"
)


def _note(distilled: float, more: str = "") -> str:
    return (
        "the authors' files are on Google Drive, see their README; vimzoo.load_checkpoint reads them. After 1000 "
        f"epochs with TResNet-L v2 as a teacher the authors state top-1 {distilled} %{more}"
    )


MOBILE_MAMBA_FACTS: dict[str, ModelFacts] = {
    facts.name: facts
    for facts in (
        ModelFacts(
            "mobile_mamba_t2", "", args=dict(depths=(1, 2, 2), dims=(144, 272, 368)), input_size=(3, 192, 192),
            params=8_806_682, gflops=0.255, top1=73.6, recipe=_RECIPE,
            note=_note(76.9, ". Their README's table has 71.5 % instead of 73.6, their log and test have 73.6"),
            **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "mobile_mamba_t4", "", args=dict(depths=(1, 2, 2), dims=(176, 368, 448)), input_size=(3, 192, 192),
            params=14_137_690, gflops=0.413, top1=76.1, recipe=_RECIPE, note=_note(78.9), **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "mobile_mamba_s6", "", args=dict(depths=(1, 2, 2), dims=(192, 384, 448)), params=14_996_696, gflops=0.652,
            top1=78.0, recipe=_RECIPE, note=_note(80.7), **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "mobile_mamba_b1", "", input_size=(3, 256, 256), params=17_070_625, gflops=1.08, top1=79.9,
            recipe=f"{_RECIPE}, drop path 0.03", note=_note(82.2), **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "mobile_mamba_b2", "", input_size=(3, 384, 384), params=17_070_625, gflops=2.43, top1=81.6,
            recipe=f"{_RECIPE}, drop path 0.03", note=_note(83.3), **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "mobile_mamba_b4", "", input_size=(3, 512, 512), params=17_070_625, gflops=4.31, top1=82.5,
            recipe=f"{_RECIPE}, drop path 0.03", note=_note(83.6), **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "test_mobile_mamba", "", args=dict(depths=(1, 1, 1), dims=(32, 40, 48), kernels=(3, 5, 3)),
            input_size=(3, 64, 64), params=213_016, note="for tests", **_SOURCE,
        ),
    )
}  # fmt: skip
"""By registered name. The published numbers of parameters count the filters of the wavelet transform, too."""

FAMILY = Family(
    "MobileMamba",
    MOBILE_MAMBA_FACTS,
    MOBILE_MAMBA,
    lambda state: MobileMamba if holds_mobile_mamba(state) else None,
    cam=cam_arguments,
)

default_cfgs = generate_default_cfgs(
    {
        name: cfg
        for facts in MOBILE_MAMBA_FACTS.values()
        for name, cfg in facts.timm_cfgs(
            first_conv="patch_embed.convs.0.conv",
            classifier="head.fc",
            pool_size=(facts.input_size[1] // 64, facts.input_size[2] // 64),
        ).items()
    }
)


def _create_mobile_mamba(variant: str, pretrained: bool = False, **kwargs: Any) -> MobileMamba:
    """With ``features_only=True``, ``output_fmt="NHWC"`` gives maps with channels last."""
    kwargs.setdefault("out_indices", (0, 1, 2))
    return build_model(
        MobileMamba,
        variant,
        pretrained,
        checkpoint_filter_fn,
        feature_cfg=map_features(kwargs),
        **{**MOBILE_MAMBA_FACTS[variant].args, **kwargs},
    )


@register_model
def mobile_mamba_t2(pretrained: bool = False, **kwargs: Any) -> MobileMamba:
    """MobileMamba-T2."""
    return _create_mobile_mamba("mobile_mamba_t2", pretrained, **kwargs)


@register_model
def mobile_mamba_t4(pretrained: bool = False, **kwargs: Any) -> MobileMamba:
    """MobileMamba-T4."""
    return _create_mobile_mamba("mobile_mamba_t4", pretrained, **kwargs)


@register_model
def mobile_mamba_s6(pretrained: bool = False, **kwargs: Any) -> MobileMamba:
    """MobileMamba-S6."""
    return _create_mobile_mamba("mobile_mamba_s6", pretrained, **kwargs)


@register_model
def mobile_mamba_b1(pretrained: bool = False, **kwargs: Any) -> MobileMamba:
    """MobileMamba-B1."""
    return _create_mobile_mamba("mobile_mamba_b1", pretrained, **kwargs)


@register_model
def mobile_mamba_b2(pretrained: bool = False, **kwargs: Any) -> MobileMamba:
    """MobileMamba-B2: B1 for larger images."""
    return _create_mobile_mamba("mobile_mamba_b2", pretrained, **kwargs)


@register_model
def mobile_mamba_b4(pretrained: bool = False, **kwargs: Any) -> MobileMamba:
    """MobileMamba-B4: B1 for still larger images."""
    return _create_mobile_mamba("mobile_mamba_b4", pretrained, **kwargs)


@register_model
def test_mobile_mamba(pretrained: bool = False, **kwargs: Any) -> MobileMamba:
    """A small model for tests."""
    return _create_mobile_mamba("test_mobile_mamba", pretrained, **kwargs)
