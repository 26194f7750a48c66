"""VM-UNet: facts about its models, and their registration with timm.

`VM-UNet: Vision Mamba UNet for Medical Image Segmentation`, Ruan, Li & Xiang, 2024, arXiv:2402.02491; code by its
authors at https://github.com/JCruan519/VM-UNet (Apache-2.0).
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model

from ..facts import SegmentationFacts
from ..family import Family
from ..weights.loading import build_model
from .model import VM_UNET, VMUNet, checkpoint_filter_fn
from .names import holds_vm_unet

__all__ = ["FAMILY", "VM_UNET_FACTS", "VMUNet"]

_SOURCE: dict[str, Any] = dict(
    origin="https://github.com/JCruan519/VM-UNet", paper="2402.02491", input_size=(3, 256, 256),
    start="VMamba-S of the first release",
    recipe=(
        "AdamW, lr 1e-3, weight decay 0.01, cosine of 50 epochs (Synapse 100) up and down to 1e-5, 300 epochs, "
        "batch 32, float32; ISIC: 256 pixels, binary cross-entropy + Dice on probabilities; Synapse: 224 pixels, "
        "9 classes, cross-entropy + Dice"
    ),
)  # fmt: skip

VM_UNET_FACTS: dict[str, SegmentationFacts] = {
    facts.name: facts
    for facts in (
        SegmentationFacts(
            "vm_unet", args=dict(depths=(2, 2, 2, 2), decoder_depths=(2, 2, 2, 1)), params=27_427_586,
            gflops="4.11 (linear layers and convolutions only)",
            note="as configured by the authors; their mIoU on ISIC is the pooled IoU of the lesion alone", **_SOURCE,
        ),
        SegmentationFacts(
            "vm_unet_deep", params=44_273_858, note="the defaults of the authors' constructor; no scores are published",
            **_SOURCE,
        ),
        SegmentationFacts(
            "test_vm_unet",
            args=dict(depths=(1, 1, 1, 1), decoder_depths=(1, 1, 1, 1), dims=(16, 16, 24, 32), d_state=2),
            params=59474,
            note="for tests", **{**_SOURCE, "input_size": (3, 64, 64), "recipe": "", "start": ""},
        ),
    )
}  # fmt: skip
"""By registered name."""

FAMILY = Family("VM-UNet", VM_UNET_FACTS, VM_UNET, lambda state: VMUNet if holds_vm_unet(state) else None)

default_cfgs = generate_default_cfgs(
    {
        name: cfg
        for facts in VM_UNET_FACTS.values()
        for name, cfg in facts.timm_cfgs(first_conv="patch_embed.conv1", classifier="head").items()
    }
)


def _create_vm_unet(variant: str, pretrained: bool = False, **kwargs: Any) -> VMUNet:
    options = {**VM_UNET_FACTS[variant].args, **kwargs}
    return build_model(VMUNet, variant, pretrained, checkpoint_filter_fn, **options)


@register_model
def vm_unet(pretrained: bool = False, **kwargs: Any) -> VMUNet:
    """VM-UNet as its authors configure it for ISIC and Synapse."""
    return _create_vm_unet("vm_unet", pretrained, **kwargs)


@register_model
def vm_unet_deep(pretrained: bool = False, **kwargs: Any) -> VMUNet:
    """VM-UNet with nine blocks in the third stage of the encoder and the second of the decoder."""
    return _create_vm_unet("vm_unet_deep", pretrained, **kwargs)


@register_model
def test_vm_unet(pretrained: bool = False, **kwargs: Any) -> VMUNet:
    """A small model for tests."""
    return _create_vm_unet("test_vm_unet", pretrained, **kwargs)
