"""Swin-UMamba: facts about its models, and their registration with timm.

`Swin-UMamba: Mamba-based UNet with ImageNet-based pretraining`, Liu et al., MICCAI 2024, arXiv:2402.03302; code by its
authors at https://github.com/JiarunLiu/Swin-UMamba (Apache-2.0).
"""

from collections.abc import Mapping
from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from ..facts import SegmentationFacts
from ..family import Family
from ..weights.loading import build_model
from .model import SWIN_UMAMBA, SwinUMamba, SwinUMambaD, checkpoint_filter_fn
from .names import holds_swin_umamba

__all__ = ["FAMILY", "SWIN_UMAMBA_FACTS", "SwinUMamba", "SwinUMambaD"]

_SOURCE: dict[str, Any] = dict(
    origin="https://github.com/JiarunLiu/Swin-UMamba", paper="2402.03302", input_size=(3, 320, 320),
    start="VMamba-T of the first release", deep_supervision=True,
    recipe=(
        "nnU-Net v2 in 2-D: AdamW, lr 1e-4, weight decay 0.05, cosine of 1000 epochs of 250 steps to 1e-6, Dice + "
        "cross-entropy with deep supervision, the encoder frozen for 10 epochs; the evaluated weights are of epoch 100 "
        "(abdomen, 320 pixels), 250 (endoscopy, 384 x 640) and 350 (microscopy, 512)"
    ),
)  # fmt: skip
_TEST: dict[str, Any] = {**_SOURCE, "input_size": (3, 64, 64), "recipe": "", "start": ""}

SWIN_UMAMBA_FACTS: dict[str, SegmentationFacts] = {
    facts.name: facts
    for facts in (
        SegmentationFacts(
            "swin_umamba", params=59_886_344, gflops="68.0 (one channel, 14 classes)",
            note="the trained weights of the authors are files of nnU-Net, which `model.start` reads", **_SOURCE,
        ),
        SegmentationFacts(
            "swin_umamba_d", params=27_491_528, gflops="18.9 (one channel, 14 classes)",
            note="the decoder is made of VMamba's blocks: half the parameters, a quarter of the operations", **_SOURCE,
        ),
        SegmentationFacts(
            "test_swin_umamba", args=dict(depths=(1, 1, 1, 1), dims=(16, 16, 24, 32), d_state=2), params=140_296,
            note="for tests", **_TEST,
        ),
        SegmentationFacts(
            "test_swin_umamba_d", args=dict(depths=(1, 1, 1), dims=16, d_state=2), params=102_918,
            note="for tests", **_TEST,
        ),
    )
}  # fmt: skip
"""By registered name."""


def _detected(state: Mapping[str, Tensor]) -> type[nn.Module] | None:
    return {"SwinUMamba": SwinUMamba, "SwinUMambaD": SwinUMambaD}.get(holds_swin_umamba(state) or "")


FAMILY = Family("Swin-UMamba", SWIN_UMAMBA_FACTS, SWIN_UMAMBA, _detected)

default_cfgs = generate_default_cfgs(
    {
        name: cfg
        for facts in SWIN_UMAMBA_FACTS.values()
        for name, cfg in facts.timm_cfgs(
            first_conv="encoder.patch_embed.conv1" if facts.name.endswith("_d") else "stem.0",
            classifier="head",
        ).items()
    }
)


def _create(kind: type[nn.Module], variant: str, pretrained: bool, **kwargs: Any) -> Any:
    options = {**SWIN_UMAMBA_FACTS[variant].args, **kwargs}
    return build_model(kind, variant, pretrained, checkpoint_filter_fn, **options)


@register_model
def swin_umamba(pretrained: bool = False, **kwargs: Any) -> SwinUMamba:
    """Swin-UMamba: a decoder of convolutions."""
    return _create(SwinUMamba, "swin_umamba", pretrained, **kwargs)


@register_model
def swin_umamba_d(pretrained: bool = False, **kwargs: Any) -> SwinUMambaD:
    """Swin-UMamba-D: a decoder of VMamba's blocks."""
    return _create(SwinUMambaD, "swin_umamba_d", pretrained, **kwargs)


@register_model
def test_swin_umamba(pretrained: bool = False, **kwargs: Any) -> SwinUMamba:
    """A small model for tests."""
    return _create(SwinUMamba, "test_swin_umamba", pretrained, **kwargs)


@register_model
def test_swin_umamba_d(pretrained: bool = False, **kwargs: Any) -> SwinUMambaD:
    """A small model for tests."""
    return _create(SwinUMambaD, "test_swin_umamba_d", pretrained, **kwargs)
