"""VMamba: facts about its models, and their registration with timm.

`VMamba: Visual State Space Model`, Liu et al., NeurIPS 2024, arXiv:2401.10166; code and weights by its authors at
https://github.com/MzeroMiko/VMamba (MIT).

Suffixes of names have the authors' meaning: ``v0`` is the first release, without MLP and with a gate; ``s2l5`` has an
inner width of 2 and 5 blocks in the third stage; ``m2`` scans with Mamba-2.
"""

from pathlib import Path
from typing import Any

from timm.models import generate_default_cfgs, register_model

from ..facts import DIGITS, ModelFacts
from ..family import Family
from ..weights.loading import build_model, map_features
from .class_maps import cam_arguments
from .model import VMamba, checkpoint_filter_fn
from .names import VMAMBA, holds_vmamba

__all__ = ["FAMILY", "VMAMBA_FACTS", "VMamba", "checkpoint_filter_fn"]

_SOURCE: dict[str, Any] = dict(
    origin="https://github.com/MzeroMiko/VMamba", paper="2401.10166", license="mit"
)
_RELEASES = "https://github.com/MzeroMiko/VMamba/releases/download"
_PUBLISHED: dict[str, Any] = dict(
    gflops_source="https://github.com/MzeroMiko/VMamba/blob/main/assets/performance.md",
    score_source="https://github.com/MzeroMiko/VMamba/blob/main/assets/performance.md",
)
_RECIPE = (
    "ImageNet-1k, 300 epochs, batch 1024, AdamW, lr 1e-3 cosine to 1e-5 after 20 warm-up epochs, weight decay 0.05, "
    "gradients clipped at 5, label smoothing 0.1, RandAugment, Mixup 0.8, CutMix 1.0, random erasing 0.25, "
    "float16 autocast, "
)
_FIRST: dict[str, Any] = dict(
    d_state=16, ratio=2.0, conv_bias=True, gate="act", mlp_ratio=0.0, stem="patch", downsample="merge"
)
_MAMBA2: dict[str, Any] = dict(d_state=64, act="gelu", ssd=True, init="zero")


def _last_map(size: tuple[int, int, int]) -> tuple[int, int]:
    return size[1] // 32, size[2] // 32


def _depths(third: int) -> tuple[int, ...]:
    return (2, 2, third, 2)


VMAMBA_FACTS: dict[str, ModelFacts] = {
    facts.name: facts
    for facts in (
        ModelFacts(
            "vmamba_tiny_v0", "in1k", args=dict(depths=_depths(9), dims=96, **_FIRST), params=22_893_448,
            gflops=5.6, top1=82.2, url=f"{_RELEASES}/%23v0cls/vssmtiny_dp01_ckpt_epoch_292.pth",
            recipe=_RECIPE + "drop path 0.2", **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "vmamba_small_v0", "in1k", args=dict(depths=_depths(27), dims=96, **_FIRST), params=44_417_416,
            gflops=11.2, top1=83.5, url=f"{_RELEASES}/%23v0cls/vssmsmall_dp03_ckpt_epoch_238.pth",
            recipe=_RECIPE + "EMA 0.9999, drop path 0.3", **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "vmamba_base_v0", "in1k", args=dict(depths=_depths(27), dims=128, **_FIRST), params=76_254_056,
            gflops=18.0, top1=83.7, url=f"{_RELEASES}/%23v0cls/vssmbase_dp06_ckpt_epoch_241.pth",
            recipe=_RECIPE + "EMA 0.9999, drop path 0.6", **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "vmamba_tiny_s2l5", "in1k", args=dict(depths=_depths(5), dims=96, ratio=2.0), params=30_705_832,
            gflops=4.9, top1=82.5, url=f"{_RELEASES}/%23v2cls/vssm_tiny_0230_ckpt_epoch_262.pth",
            recipe=_RECIPE + "EMA 0.9999, drop path 0.2", **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "vmamba_small_s2l15", "in1k", args=dict(depths=_depths(15), dims=96, ratio=2.0), params=50_147_752,
            gflops=8.7, top1=83.6, url=f"{_RELEASES}/%23v2cls/vssm_small_0229_ckpt_epoch_222.pth",
            recipe=_RECIPE + "EMA 0.9999, drop path 0.3", **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "vmamba_base_s2l15", "in1k", args=dict(depths=_depths(15), dims=128, ratio=2.0), params=88_557_800,
            gflops=15.4, top1=83.9, url=f"{_RELEASES}/%23v2cls/vssm_base_0229_ckpt_epoch_237.pth",
            recipe=_RECIPE + "EMA 0.9999, drop path 0.6", **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "vmamba_tiny_s1l8", "in1k", args=dict(depths=_depths(8), dims=96), params=30_249_064,
            gflops=4.9, top1=82.6, url=f"{_RELEASES}/%23v2cls/vssm1_tiny_0230s_ckpt_epoch_264.pth",
            recipe=_RECIPE + "EMA 0.9999, drop path 0.2", **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "vmamba_small_s1l20", "in1k", args=dict(depths=_depths(20), dims=96), params=49_012_840,
            gflops=8.6, top1=83.3, url=f"{_RELEASES}/%23v2cls/vssm1_small_0229s_ckpt_epoch_240.pth",
            recipe=_RECIPE + "EMA 0.9999, drop path 0.3", **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "vmamba_base_s1l20", "in1k", args=dict(depths=_depths(20), dims=128), params=86_614_504,
            gflops=15.2, top1=83.8, url=f"{_RELEASES}/%23v2cls/vssm1_base_0229s_ckpt_epoch_225.pth",
            recipe=_RECIPE + "EMA 0.9999, drop path 0.5", **_PUBLISHED, **_SOURCE,
        ),
        *(
            ModelFacts(
                f"vmamba_{size}_m2", "", args=dict(depths=_depths(third), dims=dims, **_MAMBA2), params=params,
                note="no weights and no scores are published", **_SOURCE,
            )
            for size, third, dims, params in (
                ("tiny", 4, 96, 25_340_296), ("small", 12, 96, 39_079_816), ("base", 12, 128, 67_527_528),
            )
        ),
        ModelFacts(
            "test_vmamba", "digits",
            args=dict(img_size=64, depths=(1, 1, 1, 1), dims=(24, 32, 48, 64), d_state=2, mlp_ratio=2.0),
            input_size=(3, 64, 64), params=113_114, note="for tests; our weights", shipped=Path(__file__).parent,
            recipe="`vimzoo-train experiment=digits_tests model=test_vmamba` on scikit-learn's digits",
            **(_SOURCE | DIGITS),
        ),
    )
}  # fmt: skip
"""By registered name."""

FAMILY = Family(
    "VMamba",
    VMAMBA_FACTS,
    VMAMBA,
    lambda state: VMamba if holds_vmamba(state) else None,
    cam=cam_arguments,
)

default_cfgs = generate_default_cfgs(
    {
        name: cfg
        for facts in VMAMBA_FACTS.values()
        for name, cfg in facts.timm_cfgs(
            first_conv="patch_embed.conv1", classifier="head.fc", pool_size=_last_map(facts.input_size)
        ).items()
    }
)


def _create_vmamba(variant: str, pretrained: bool = False, **kwargs: Any) -> VMamba:
    """With ``features_only=True``, ``output_fmt="NHWC"`` gives maps with channels last."""
    return build_model(
        VMamba,
        variant,
        pretrained,
        checkpoint_filter_fn,
        feature_cfg=map_features(kwargs),
        **{**VMAMBA_FACTS[variant].args, **kwargs},
    )


@register_model
def vmamba_tiny_v0(pretrained: bool = False, **kwargs: Any) -> VMamba:
    """VMamba-T of the first release."""
    return _create_vmamba("vmamba_tiny_v0", pretrained, **kwargs)


@register_model
def vmamba_small_v0(pretrained: bool = False, **kwargs: Any) -> VMamba:
    """VMamba-S of the first release."""
    return _create_vmamba("vmamba_small_v0", pretrained, **kwargs)


@register_model
def vmamba_base_v0(pretrained: bool = False, **kwargs: Any) -> VMamba:
    """VMamba-B of the first release."""
    return _create_vmamba("vmamba_base_v0", pretrained, **kwargs)


@register_model
def vmamba_tiny_s2l5(pretrained: bool = False, **kwargs: Any) -> VMamba:
    """VMamba-T of the second release."""
    return _create_vmamba("vmamba_tiny_s2l5", pretrained, **kwargs)


@register_model
def vmamba_small_s2l15(pretrained: bool = False, **kwargs: Any) -> VMamba:
    """VMamba-S as published, inner width 2."""
    return _create_vmamba("vmamba_small_s2l15", pretrained, **kwargs)


@register_model
def vmamba_base_s2l15(pretrained: bool = False, **kwargs: Any) -> VMamba:
    """VMamba-B as published, inner width 2."""
    return _create_vmamba("vmamba_base_s2l15", pretrained, **kwargs)


@register_model
def vmamba_tiny_s1l8(pretrained: bool = False, **kwargs: Any) -> VMamba:
    """VMamba-T as published: inner width 1, 8 blocks in the third stage."""
    return _create_vmamba("vmamba_tiny_s1l8", pretrained, **kwargs)


@register_model
def vmamba_small_s1l20(pretrained: bool = False, **kwargs: Any) -> VMamba:
    """VMamba-S with an inner width of 1; faster than the published one and 0.3 % less accurate."""
    return _create_vmamba("vmamba_small_s1l20", pretrained, **kwargs)


@register_model
def vmamba_base_s1l20(pretrained: bool = False, **kwargs: Any) -> VMamba:
    """VMamba-B with an inner width of 1; faster than the published one."""
    return _create_vmamba("vmamba_base_s1l20", pretrained, **kwargs)


@register_model
def vmamba_tiny_m2(pretrained: bool = False, **kwargs: Any) -> VMamba:
    """VMamba-T on Mamba-2's scan; no weights are published."""
    return _create_vmamba("vmamba_tiny_m2", pretrained, **kwargs)


@register_model
def vmamba_small_m2(pretrained: bool = False, **kwargs: Any) -> VMamba:
    """VMamba-S on Mamba-2's scan; no weights are published."""
    return _create_vmamba("vmamba_small_m2", pretrained, **kwargs)


@register_model
def vmamba_base_m2(pretrained: bool = False, **kwargs: Any) -> VMamba:
    """VMamba-B on Mamba-2's scan; no weights are published."""
    return _create_vmamba("vmamba_base_m2", pretrained, **kwargs)


@register_model
def test_vmamba(pretrained: bool = False, **kwargs: Any) -> VMamba:
    """A small model for tests."""
    return _create_vmamba("test_vmamba", pretrained, **kwargs)
