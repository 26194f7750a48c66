"""FusionMamba, twice: facts about two networks of this name that make one image of two, and their registration.

`SpectralFusionMamba` sharpens an image of many bands with a finer one of few: `FusionMamba: Efficient Image Fusion with
State Space Model`, Peng et al., IEEE TGRS 2024, arXiv:2404.07932; code by its authors at
https://github.com/PSRben/FusionMamba.

`MultimodalFusionMamba` joins two pictures of one scene: `FusionMamba: Dynamic Feature Enhancement for Multimodal Image
Fusion with Mamba`, Xie et al., 2024, arXiv:2404.09498; code by its authors at https://github.com/millieXie/FusionMamba.

Neither repository states a licence.
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model

from ..family import Family
from ..inputs import ModelWithInputs, build_with_inputs
from ..network_facts import FusionFacts
from .multimodal import MultimodalFusionMamba
from .names import FUSION_MAMBA, detected
from .spectral import SpectralFusionMamba

__all__ = ["FAMILY", "FUSION_MAMBA_FACTS", "MultimodalFusionMamba", "SpectralFusionMamba"]

_SPECTRAL: dict[str, Any] = dict(
    origin="https://github.com/PSRben/FusionMamba", paper="2404.07932", license="unknown"
)
_MULTIMODAL: dict[str, Any] = dict(
    origin="https://github.com/millieXie/FusionMamba", paper="2404.09498", license="unknown"
)

FUSION_MAMBA_FACTS: dict[str, FusionFacts] = {
    facts.name: facts
    for facts in (
        FusionFacts(
            "spectral_fusion_mamba", "eight bands at a quarter of the resolution, and a panchromatic image, to eight",
            tag="wv3", input_size=(8, 16, 16), params=735_401,
            url="https://github.com/PSRben/FusionMamba/raw/6bd5cbd2c65b56c0d5820f91f25b5ea3d44d0945/weights/420.pth",
            recipe="WorldView-3 images of PanCollection, by the authors' `train.py`",
            note="values in 0..1, which are the sensor's divided by 2047; a licence is stated neither for the code nor "
            "for the weights",
            **_SPECTRAL,
        ),
        FusionFacts(
            "multimodal_fusion_mamba", "two pictures of one scene, such as infrared and visible light, to one",
            input_size=(1, 256, 256), params=225_419_541, linked=True,
            note="sides in multiples of 32; a licence is stated neither for the code nor for the weights",
            **_MULTIMODAL,
        ),
        FusionFacts(
            "test_spectral_fusion_mamba", "for tests", args=dict(dim=8, in_chans=3, d_state=2), input_size=(3, 8, 8),
            params=55_532, **_SPECTRAL,
        ),
        FusionFacts(
            "test_multimodal_fusion_mamba", "for tests",
            args=dict(depths=(1, 1), decoder_depths=(1, 1), dims=(8, 16), d_state=2), input_size=(1, 32, 32),
            params=46_675, **_MULTIMODAL,
        ),
    )
}  # fmt: skip
"""By registered name."""

FAMILY = Family("FusionMamba", FUSION_MAMBA_FACTS, FUSION_MAMBA, detected)

default_cfgs = generate_default_cfgs(
    {name: cfg for facts in FUSION_MAMBA_FACTS.values() for name, cfg in facts.timm_cfgs().items()}
)


def _create(kind: type[ModelWithInputs], variant: str, pretrained: bool, **kwargs: Any) -> Any:
    return build_with_inputs(kind, variant, pretrained, **{**FUSION_MAMBA_FACTS[variant].args, **kwargs})


@register_model
def spectral_fusion_mamba(pretrained: bool = False, **kwargs: Any) -> SpectralFusionMamba:
    """The network that sharpens eight bands fourfold with a panchromatic image."""
    return _create(SpectralFusionMamba, "spectral_fusion_mamba", pretrained, **kwargs)


@register_model
def multimodal_fusion_mamba(pretrained: bool = False, **kwargs: Any) -> MultimodalFusionMamba:
    """The network that joins two pictures of one scene."""
    return _create(MultimodalFusionMamba, "multimodal_fusion_mamba", pretrained, **kwargs)


@register_model
def test_spectral_fusion_mamba(pretrained: bool = False, **kwargs: Any) -> SpectralFusionMamba:
    """A small model for tests."""
    return _create(SpectralFusionMamba, "test_spectral_fusion_mamba", pretrained, **kwargs)


@register_model
def test_multimodal_fusion_mamba(pretrained: bool = False, **kwargs: Any) -> MultimodalFusionMamba:
    """A small model for tests."""
    return _create(MultimodalFusionMamba, "test_multimodal_fusion_mamba", pretrained, **kwargs)
