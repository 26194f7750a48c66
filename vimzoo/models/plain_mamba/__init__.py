"""PlainMamba: facts about its models, and their registration with timm.

`PlainMamba: Improving Non-Hierarchical Mamba in Visual Recognition`, Yang et al., BMVC 2024, arXiv:2403.17695; code and
weights by its authors at https://github.com/ChenhongyiYang/PlainMamba (Apache-2.0).
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model

from ..facts import ModelFacts
from ..family import Family
from ..vmamba.class_maps import cam_arguments
from ..weights.loading import build_model
from .model import PlainMamba
from .names import PLAIN_MAMBA, checkpoint_filter_fn, holds_plain_mamba

__all__ = ["FAMILY", "PLAIN_MAMBA_FACTS", "PlainMamba", "checkpoint_filter_fn"]

_SOURCE: dict[str, Any] = dict(origin="https://github.com/ChenhongyiYang/PlainMamba", paper="2403.17695")
_PUBLISHED: dict[str, Any] = dict(
    gflops_source="arXiv:2403.17695",
    score_source="https://github.com/ChenhongyiYang/PlainMamba#main-results",
    hub_id="ChenhongyiYang/PlainMamba",
)
_RECIPE = (
    "ImageNet-1k, 300 epochs, AdamW, lr 5e-4 x batch / 512, weight decay 0.05, label smoothing 0.1, Mixup 0.8, CutMix "
    "1.0; "
)

PLAIN_MAMBA_FACTS: dict[str, ModelFacts] = {
    facts.name: facts
    for facts in (
        ModelFacts(
            "plain_mamba_l1", "in1k", args=dict(embed_dim=192, depth=24, stem_convs=1, dw_blocks=(0,)),
            params=7_551_656, gflops=3.0, top1=77.9, top5=94.0, hub_file="l1.pth",
            recipe=_RECIPE + "batch 2048, gradients clipped at 5, drop path 0.2", **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "plain_mamba_l2", "in1k", args=dict(embed_dim=384, depth=24, stem_convs=2), params=26_145_832, gflops=8.1,
            top1=81.6, top5=95.6, hub_file="l2.pth",
            recipe=_RECIPE + "batch 2048, gradients clipped at 1, EMA, drop path 0.2", **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "plain_mamba_l3", "in1k", args=dict(embed_dim=448, depth=36, stem_convs=2), params=50_956_456,
            gflops=14.4, top1=82.3, top5=95.9, hub_file="l3.pth",
            recipe=_RECIPE + "batch 1024, gradients clipped at 1, EMA, drop path 0.4", **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "test_plain_mamba", "",
            args=dict(img_size=64, embed_dim=32, depth=3, d_state=4, d_conv=3, dw_blocks=(0,)),
            input_size=(3, 64, 64), params=236_100, note="for tests", **_SOURCE,
        ),
    )
}  # fmt: skip
"""By registered name. The published numbers of parameters leave out the classifier."""

FAMILY = Family(
    "PlainMamba",
    PLAIN_MAMBA_FACTS,
    PLAIN_MAMBA,
    lambda state: PlainMamba if holds_plain_mamba(state) else None,
    cam=cam_arguments,
)

default_cfgs = generate_default_cfgs(
    {
        name: cfg
        for facts in PLAIN_MAMBA_FACTS.values()
        for name, cfg in facts.timm_cfgs(
            first_conv="patch_embed.stem.0",
            classifier="head.fc",
            pool_size=(facts.input_size[1] // 16, facts.input_size[2] // 16),
        ).items()
    }
)


def _create_plain_mamba(variant: str, pretrained: bool = False, **kwargs: Any) -> PlainMamba:
    features: dict[str, Any] = dict(out_indices=kwargs.pop("out_indices", 3), feature_cls="getter")
    return build_model(
        PlainMamba,
        variant,
        pretrained,
        checkpoint_filter_fn,
        feature_cfg=features,
        **{**PLAIN_MAMBA_FACTS[variant].args, **kwargs},
    )


@register_model
def plain_mamba_l1(pretrained: bool = False, **kwargs: Any) -> PlainMamba:
    """PlainMamba-L1."""
    return _create_plain_mamba("plain_mamba_l1", pretrained, **kwargs)


@register_model
def plain_mamba_l2(pretrained: bool = False, **kwargs: Any) -> PlainMamba:
    """PlainMamba-L2."""
    return _create_plain_mamba("plain_mamba_l2", pretrained, **kwargs)


@register_model
def plain_mamba_l3(pretrained: bool = False, **kwargs: Any) -> PlainMamba:
    """PlainMamba-L3."""
    return _create_plain_mamba("plain_mamba_l3", pretrained, **kwargs)


@register_model
def test_plain_mamba(pretrained: bool = False, **kwargs: Any) -> PlainMamba:
    """A small model for tests."""
    return _create_plain_mamba("test_plain_mamba", pretrained, **kwargs)
