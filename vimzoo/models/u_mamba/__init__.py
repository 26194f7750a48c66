"""U-Mamba: facts about its models for images, and their registration with timm.

`U-Mamba: Enhancing Long-range Dependency for Biomedical Image Segmentation`, Ma, Li & Wang, 2024, arXiv:2401.04722;
code by its authors at https://github.com/bowang-lab/U-Mamba (Apache-2.0).
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model

from ..facts import SegmentationFacts
from ..family import Family
from ..weights.loading import build_model
from .model import U_MAMBA, UMamba, checkpoint_filter_fn
from .names import holds_u_mamba

__all__ = ["FAMILY", "U_MAMBA", "U_MAMBA_FACTS", "UMamba"]

_SOURCE: dict[str, Any] = dict(
    origin="https://github.com/bowang-lab/U-Mamba", paper="2401.04722", input_size=(1, 320, 320),
    recipe="nnU-Net's for two-dimensional slices, in float32", deep_supervision=True,
)  # fmt: skip

U_MAMBA_FACTS: dict[str, SegmentationFacts] = {
    facts.name: facts
    for facts in (
        SegmentationFacts(
            "u_mamba_bot", args=dict(in_chans=1), params=47_511_938,
            note="Mamba on the coarsest map; the stages of nnU-Net's plan for slices of the abdomen, 320 pixels",
            **_SOURCE,
        ),
        SegmentationFacts(
            "u_mamba_enc", args=dict(in_chans=1, mamba="encoder", img_size=(320, 320)), params=46_994_464,
            note="Mamba on every second stage of the encoder; the same plan, for 320 pixels alone: its two coarsest "
            "mixers read channels as tokens",
            **_SOURCE,
        ),
        SegmentationFacts(
            "test_u_mamba", args=dict(dims=(8, 16, 24), d_state=4), params=42_010, note="for tests",
            **{**_SOURCE, "input_size": (3, 64, 64), "recipe": ""},
        ),
    )
}  # fmt: skip
"""By registered name."""

FAMILY = Family("U-Mamba", U_MAMBA_FACTS, U_MAMBA, lambda state: UMamba if holds_u_mamba(state) else None)

default_cfgs = generate_default_cfgs(
    {
        name: cfg
        for facts in U_MAMBA_FACTS.values()
        for name, cfg in facts.timm_cfgs(
            first_conv="stem.0.conv1",
            classifier="head",
            fixed_input_size="img_size" in facts.args,
        ).items()
    }
)


def _create_u_mamba(variant: str, pretrained: bool = False, **kwargs: Any) -> UMamba:
    options = {**U_MAMBA_FACTS[variant].args, **kwargs}
    return build_model(UMamba, variant, pretrained, checkpoint_filter_fn, **options)


@register_model
def u_mamba_bot(pretrained: bool = False, **kwargs: Any) -> UMamba:
    """U-Mamba_Bot for images of any size."""
    return _create_u_mamba("u_mamba_bot", pretrained, **kwargs)


@register_model
def u_mamba_enc(pretrained: bool = False, **kwargs: Any) -> UMamba:
    """U-Mamba_Enc for images of 320 pixels."""
    return _create_u_mamba("u_mamba_enc", pretrained, **kwargs)


@register_model
def test_u_mamba(pretrained: bool = False, **kwargs: Any) -> UMamba:
    """A small model for tests."""
    return _create_u_mamba("test_u_mamba", pretrained, **kwargs)
