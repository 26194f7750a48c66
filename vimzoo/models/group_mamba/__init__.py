"""GroupMamba: facts about its models, and their registration with timm.

`GroupMamba: Efficient Group-Based Visual State Space Model`, Shaker et al., CVPR 2025, arXiv:2407.13772; code and
weights by its authors at https://github.com/Amshaker/GroupMamba (MIT).
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model

from ..facts import ModelFacts
from ..family import Family
from ..staged import checkpoint_filter_fn
from ..vmamba.class_maps import cam_arguments
from ..weights.loading import build_model, map_features
from .model import GroupMamba
from .names import GROUP_MAMBA, holds_group_mamba

__all__ = ["FAMILY", "GROUP_MAMBA_FACTS", "GroupMamba", "checkpoint_filter_fn"]

_SOURCE: dict[str, Any] = dict(
    origin="https://github.com/Amshaker/GroupMamba", paper="2407.13772", license="mit"
)
_PUBLISHED: dict[str, Any] = dict(
    gflops_source="arXiv:2407.13772", score_source="https://github.com/Amshaker/GroupMamba"
)
_RECIPE = (
    "ImageNet-1k, 300 epochs with 20 of warm-up, batch 1024, AdamW, lr 1e-3, weight decay 0.05, gradients clipped at "
    "5, EMA 0.9999, drop path 0.05, RandAugment, Mixup 0.8, CutMix 1.0, random erasing 0.25; the second classifier "
    "learns the decisions of RegNetY-160"
)

GROUP_MAMBA_FACTS: dict[str, ModelFacts] = {
    facts.name: facts
    for facts in (
        ModelFacts(
            "group_mamba_tiny", "in1k", params=23_361_917, gflops=4.5, top1=83.3,
            hub_id="Abdelrahman-shaker/GroupMamba-Tiny", hub_file="groupmamba_tiny_ema.pth", recipe=_RECIPE,
            **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "group_mamba_small", "in1k", args=dict(depths=(3, 4, 16, 3), dims=(64, 128, 348, 512), stem_width=64),
            params=34_781_555, gflops=7.0, top1=83.9, hub_id="Abdelrahman-shaker/GroupMamba-Small",
            hub_file="groupmamba_small_ema.pth", recipe=_RECIPE, **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "group_mamba_base", "in1k", args=dict(depths=(3, 6, 21, 3), dims=(96, 192, 424, 512), stem_width=64),
            params=57_150_838, gflops=14.0, top1=84.5, hub_id="Abdelrahman-shaker/GroupMamba-Base",
            hub_file="groupmamba_base_ema.pth", recipe=_RECIPE, **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "test_group_mamba", "",
            args=dict(depths=(1, 1, 1, 1), dims=(16, 16, 24, 32), mlp_ratios=(2, 2, 2, 2), stem_width=8),
            input_size=(3, 64, 64), params=106_236, note="for tests", **_SOURCE,
        ),
    )
}  # fmt: skip
"""By registered name."""

FAMILY = Family(
    "GroupMamba",
    GROUP_MAMBA_FACTS,
    GROUP_MAMBA,
    lambda state: GroupMamba if holds_group_mamba(state) else None,
    cam=cam_arguments,
)

default_cfgs = generate_default_cfgs(
    {
        name: cfg
        for facts in GROUP_MAMBA_FACTS.values()
        for name, cfg in facts.timm_cfgs(
            first_conv="patch_embed.conv.0",
            classifier=("head.fc", "head.fc_dist"),
            pool_size=(facts.input_size[1] // 32, facts.input_size[2] // 32),
        ).items()
    }
)


def _create_group_mamba(variant: str, pretrained: bool = False, **kwargs: Any) -> GroupMamba:
    """With ``features_only=True``, ``output_fmt="NHWC"`` gives maps with channels last."""
    return build_model(
        GroupMamba,
        variant,
        pretrained,
        checkpoint_filter_fn,
        feature_cfg=map_features(kwargs),
        **{**GROUP_MAMBA_FACTS[variant].args, **kwargs},
    )


@register_model
def group_mamba_tiny(pretrained: bool = False, **kwargs: Any) -> GroupMamba:
    """GroupMamba-T."""
    return _create_group_mamba("group_mamba_tiny", pretrained, **kwargs)


@register_model
def group_mamba_small(pretrained: bool = False, **kwargs: Any) -> GroupMamba:
    """GroupMamba-S."""
    return _create_group_mamba("group_mamba_small", pretrained, **kwargs)


@register_model
def group_mamba_base(pretrained: bool = False, **kwargs: Any) -> GroupMamba:
    """GroupMamba-B."""
    return _create_group_mamba("group_mamba_base", pretrained, **kwargs)


@register_model
def test_group_mamba(pretrained: bool = False, **kwargs: Any) -> GroupMamba:
    """A small model for tests."""
    return _create_group_mamba("test_group_mamba", pretrained, **kwargs)
