"""Spatial-Mamba: facts about its models, and their registration with timm.

`Spatial-Mamba: Effective Visual State Space Models via Structure-Aware State Fusion`, Xiao et al., arXiv:2410.15091;
code and weights by its authors at https://github.com/EdwardChasel/Spatial-Mamba (Apache-2.0).
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model

from ..facts import ModelFacts
from ..family import Family
from ..vmamba.class_maps import cam_arguments
from ..weights.loading import build_model, map_features
from .model import SpatialMamba
from .names import SPATIAL_MAMBA, checkpoint_filter_fn, holds_spatial_mamba

__all__ = ["FAMILY", "SPATIAL_MAMBA_FACTS", "SpatialMamba", "checkpoint_filter_fn"]

_SOURCE: dict[str, Any] = dict(
    origin="https://github.com/EdwardChasel/Spatial-Mamba",
    paper="2410.15091",
)
_README = "https://github.com/EdwardChasel/Spatial-Mamba#main-results"
_PUBLISHED: dict[str, Any] = dict(gflops_source=_README, score_source=_README)


def _recipe(drop_path: float, mesa: float) -> str:
    return (
        "ImageNet-1k, 300 epochs, batch 1024, AdamW, lr 1e-3 after 20 warm-up epochs, weight decay 0.05, gradients "
        f"clipped at 5, EMA 0.9999, drop path {drop_path}, RandAugment, Mixup 0.8, CutMix 1.0, random erasing 0.25; "
        f"from epoch 75 on a loss against the moving average's predictions (MESA) of weight {mesa}"
    )


def _note(file: str) -> str:
    return (
        f"the authors' file is https://drive.google.com/file/d/{file}; vimzoo.load_checkpoint reads it. With "
        "use_ema=True it takes the moving average of a training file that holds both"
    )


SPATIAL_MAMBA_FACTS: dict[str, ModelFacts] = {
    facts.name: facts
    for facts in (
        ModelFacts(
            "spatial_mamba_tiny", "", params=26_748_862, gflops=4.5, top1=83.5, recipe=_recipe(0.2, 1.0),
            note=_note("19kXoqGSTuKKs4AHbdUSrdKZTwTWenLIW"), **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "spatial_mamba_small", "", args=dict(depths=(2, 4, 21, 5)), params=43_074_280, gflops=7.1, top1=84.6,
            recipe=_recipe(0.3, 1.5), note=_note("1Wb3sYoWLpgmWrmHMYKwdgDwGPZaqM28O"), **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "spatial_mamba_base", "", args=dict(depths=(2, 4, 21, 5), dims=96), params=95_745_592, gflops=15.8,
            top1=85.3, recipe=_recipe(0.5, 2.0), note=_note("1k8dHp2QRCOqBSgAi36YkhZp_O8LqOPjM"), **_PUBLISHED,
            **_SOURCE,
        ),
        ModelFacts(
            "test_spatial_mamba", "", args=dict(depths=(1, 1, 1, 1), dims=(16, 24, 32, 40)), input_size=(3, 64, 64),
            params=137_820,
            note="for tests", **_SOURCE,
        ),
    )
}  # fmt: skip
"""By registered name."""

FAMILY = Family(
    "Spatial-Mamba",
    SPATIAL_MAMBA_FACTS,
    SPATIAL_MAMBA,
    lambda state: SpatialMamba if holds_spatial_mamba(state) else None,
    cam=cam_arguments,
)

default_cfgs = generate_default_cfgs(
    {
        name: cfg
        for facts in SPATIAL_MAMBA_FACTS.values()
        for name, cfg in facts.timm_cfgs(
            first_conv="patch_embed.conv1.conv",
            classifier="head.fc",
            pool_size=tuple(
                side // (4 * 2 ** (len(facts.args.get("depths", (1,) * 4)) - 1))
                for side in facts.input_size[1:]
            ),
        ).items()
    }
)


def _create_spatial_mamba(variant: str, pretrained: bool = False, **kwargs: Any) -> SpatialMamba:
    """With ``features_only=True``, ``output_fmt="NHWC"`` gives maps with channels last."""
    return build_model(
        SpatialMamba,
        variant,
        pretrained,
        checkpoint_filter_fn,
        feature_cfg=map_features(kwargs),
        **{**SPATIAL_MAMBA_FACTS[variant].args, **kwargs},
    )


@register_model
def spatial_mamba_tiny(pretrained: bool = False, **kwargs: Any) -> SpatialMamba:
    """Spatial-Mamba-T."""
    return _create_spatial_mamba("spatial_mamba_tiny", pretrained, **kwargs)


@register_model
def spatial_mamba_small(pretrained: bool = False, **kwargs: Any) -> SpatialMamba:
    """Spatial-Mamba-S."""
    return _create_spatial_mamba("spatial_mamba_small", pretrained, **kwargs)


@register_model
def spatial_mamba_base(pretrained: bool = False, **kwargs: Any) -> SpatialMamba:
    """Spatial-Mamba-B."""
    return _create_spatial_mamba("spatial_mamba_base", pretrained, **kwargs)


@register_model
def test_spatial_mamba(pretrained: bool = False, **kwargs: Any) -> SpatialMamba:
    """A small model for tests."""
    return _create_spatial_mamba("test_spatial_mamba", pretrained, **kwargs)
