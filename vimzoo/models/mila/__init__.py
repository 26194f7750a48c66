"""MILA: facts about its models, and their registration with timm.

`Demystify Mamba in Vision: A Linear Attention Perspective`, Han et al., arXiv:2405.16605; code and weights by its
authors at https://github.com/LeapLabTHU/MLLA (MIT), which call the models MLLA.
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model

from ..facts import ModelFacts
from ..family import Family
from ..map_positions import checkpoint_filter_fn
from ..vmamba.class_maps import cam_arguments
from ..weights.loading import build_model, map_features
from .model import MILA
from .names import MILA_NAMES, holds_mila

__all__ = ["FAMILY", "MILA", "MILA_FACTS", "checkpoint_filter_fn"]

_SOURCE: dict[str, Any] = dict(origin="https://github.com/LeapLabTHU/MLLA", paper="2405.16605", license="mit")
_README = "https://github.com/LeapLabTHU/MLLA#main-results"
_PUBLISHED: dict[str, Any] = dict(gflops_source=_README, score_source=_README)


def _recipe(drop_path: float, mesa: float) -> str:
    return (
        "ImageNet-1k, 300 epochs, AdamW, lr 5e-4 per 512 images after 20 warm-up epochs, weight decay 0.05, gradients "
        f"clipped at 5, drop path {drop_path}, RandAugment, Mixup 0.8, CutMix 1.0, random erasing 0.25; from epoch 75 "
        f"on a loss against the moving average's predictions (MESA) of weight {mesa}"
    )


def _note(file: str) -> str:
    return (
        "no state-space model: linear attention with the parts of a Mamba block around it, the baseline for scans. "
        f"The authors' file is https://cloud.tsinghua.edu.cn/f/{file}/?dl=1; vimzoo.load_checkpoint reads it"
    )


_LARGER: dict[str, Any] = dict(depths=(3, 6, 21, 6))

MILA_FACTS: dict[str, ModelFacts] = {
    facts.name: facts
    for facts in (
        ModelFacts(
            "mila_tiny", "", params=24_392_200, gflops=4.2, top1=83.5, recipe=_recipe(0.2, 1.0),
            note=_note("7a19712877cb4242889c"), **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "mila_small", "", args=_LARGER, params=43_015_048, gflops=7.3, top1=84.4, recipe=_recipe(0.3, 1.5),
            note=_note("0e5d0b1409d540aaa80c"), **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "mila_base", "", args=dict(**_LARGER, dims=96, num_heads=(3, 6, 12, 24)), params=95_983_960, gflops=16.2,
            top1=85.3, recipe=_recipe(0.5, 2.0), note=_note("91c85c5a1061496d8796"), **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "test_mila", "", args=dict(depths=(1, 1, 1, 1), dims=(16, 24, 32, 40), num_heads=(2, 2, 4, 4)),
            input_size=(3, 64, 64), params=126_304, note="for tests; it has no scan", **_SOURCE,
        ),
    )
}  # fmt: skip
"""By registered name."""

FAMILY = Family(
    "MILA",
    MILA_FACTS,
    MILA_NAMES,
    lambda state: MILA if holds_mila(state) else None,
    cam=cam_arguments,
)

default_cfgs = generate_default_cfgs(
    {
        name: cfg
        for facts in MILA_FACTS.values()
        for name, cfg in facts.timm_cfgs(
            first_conv="patch_embed.conv1.conv",
            classifier="head.fc",
            pool_size=(facts.input_size[1] // 32, facts.input_size[2] // 32),
        ).items()
    }
)


def _create_mila(variant: str, pretrained: bool = False, **kwargs: Any) -> MILA:
    """With ``features_only=True``, ``output_fmt="NHWC"`` gives maps with channels last."""
    return build_model(
        MILA,
        variant,
        pretrained,
        checkpoint_filter_fn,
        feature_cfg=map_features(kwargs),
        **{**MILA_FACTS[variant].args, **kwargs},
    )


@register_model
def mila_tiny(pretrained: bool = False, **kwargs: Any) -> MILA:
    """MILA-T."""
    return _create_mila("mila_tiny", pretrained, **kwargs)


@register_model
def mila_small(pretrained: bool = False, **kwargs: Any) -> MILA:
    """MILA-S."""
    return _create_mila("mila_small", pretrained, **kwargs)


@register_model
def mila_base(pretrained: bool = False, **kwargs: Any) -> MILA:
    """MILA-B."""
    return _create_mila("mila_base", pretrained, **kwargs)


@register_model
def test_mila(pretrained: bool = False, **kwargs: Any) -> MILA:
    """A small model for tests."""
    return _create_mila("test_mila", pretrained, **kwargs)
