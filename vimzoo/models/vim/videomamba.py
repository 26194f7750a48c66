"""VideoMamba's image models: facts and registration. They are Vims with the class token first.

`VideoMamba: State Space Model for Efficient Video Understanding`, Li et al., ECCV 2024, arXiv:2403.06977; code and
weights by its authors at https://github.com/OpenGVLab/VideoMamba (Apache-2.0). The models of clips, which start from
these, are in `vimzoo.models.videomamba`.
"""

from functools import partial
from typing import Any

from timm.models import generate_default_cfgs, register_model, register_model_deprecations

from ..facts import ModelFacts
from .creating import create
from .model import Vim

IMAGE_OPTIONS: dict[str, Any] = dict(cls_token="head", divide_out=False, init="equal_steps")
"""What distinguishes VideoMamba's models from Vim's."""
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(embed_dim=192),
    "small": dict(embed_dim=384),
    "middle": dict(embed_dim=576, depth=32),
    "base": dict(embed_dim=768),
}
"""Widths and depths; the depth is 24 unless stated."""
HUB = "OpenGVLab/VideoMamba"
SOURCE: dict[str, Any] = dict(origin="https://github.com/OpenGVLab/VideoMamba", paper="2403.06977")
_ZOO = "https://github.com/OpenGVLab/VideoMamba/blob/main/videomamba/image_sm/MODEL_ZOO.md"
_TERMS = "input and output projections and the patch convolution alone"
_COMMON = "AdamW, cosine after {warm_up} warm-up epochs, bfloat16, no EMA, Mixup 0.8, CutMix 1.0, random erasing 0.25; "
_RECIPES = {
    "tiny": "batch 4096, lr 4e-3, weight decay 0.1, no drop path, gradients clipped at 5, AutoAugment v0",
    "small": "batch 4096, lr 4e-3, weight decay 0.05, drop path 0.15, RandAugment, repeated augmentation",
    "middle": "batch 2048, lr 2e-3, weight decay 0.05, drop path 0.5, gradients clipped at 5, distilled from small",
    "base": "batch 2048, lr 2e-3, weight decay 0.05, drop path 0.5, gradients clipped at 5, distilled from small",
}
_LARGER = {
    448: "The model of 224 pixels, fine-tuned for 30 epochs at a constant lr of 5e-6, weight decay 1e-8",
    576: "The model of 448 pixels, fine-tuned for 10 epochs at a constant lr of 5e-6, weight decay 1e-8",
}
_FILES = {224: "res224", 448: "res224to448", 576: "res224to448to576"}


def _recipe(size: str, pixels: int) -> str:
    if pixels != 224:
        return _LARGER[pixels]
    warm_up = 20 if size in ("middle", "base") else 5
    return f"ImageNet-1k, 300 epochs, {_COMMON.format(warm_up=warm_up)}{_RECIPES[size]}"


def _facts(size: str, pixels: int, params: int, gflops: float, top1: float) -> ModelFacts:
    return ModelFacts(
        f"videomamba_{size}_patch16_{pixels}",
        "in1k" if pixels == 224 else f"in1k_ft_{pixels}",
        args={**SIZES[size], **IMAGE_OPTIONS, **({} if pixels == 224 else {"img_size": pixels})},
        input_size=(3, pixels, pixels),
        params=params,
        gflops=gflops,
        gflops_source=f"{_ZOO}, {_TERMS}",
        top1=top1,
        score_source=_ZOO,
        hub_id=HUB,
        hub_file=f"videomamba_{size[0]}16_in1k_{_FILES[pixels]}.pth",
        recipe=_recipe(size, pixels),
        **SOURCE,
    )


VIDEOMAMBA_FACTS: dict[str, ModelFacts] = {
    facts.name: facts
    for facts in (
        _facts("tiny", 224, 7_148_008, 1.1, 76.9),
        _facts("tiny", 448, 7_260_904, 4.3, 79.3),
        _facts("tiny", 576, 7_359_208, 7.1, 79.6),
        _facts("small", 224, 25_796_584, 4.3, 81.2),
        _facts("small", 448, 26_022_376, 16.9, 83.2),
        _facts("small", 576, 26_218_984, 28.0, 83.5),
        _facts("middle", 224, 74_217_448, 12.7, 82.8),
        _facts("middle", 448, 74_556_136, 50.4, 83.8),
        _facts("middle", 576, 74_851_048, 83.1, 84.0),
        _facts("base", 224, 97_598_440, 16.9, 82.7),
    )
}
"""By registered name."""

AUTHORS_NAMES: dict[str, str | None] = {
    f"videomamba_{size}": f"videomamba_{size}_patch16_224.in1k" for size in SIZES
}
"""The names that the authors register for images; they register models of clips under the same names elsewhere."""

default_cfgs = generate_default_cfgs(
    {
        name: cfg
        for facts in VIDEOMAMBA_FACTS.values()
        for name, cfg in facts.timm_cfgs(
            first_conv="patch_embed.proj", classifier="head", fixed_input_size=True
        ).items()
    }
)
_create = partial(create, VIDEOMAMBA_FACTS)


@register_model
def videomamba_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> Vim:
    """VideoMamba-Ti for images."""
    return _create("videomamba_tiny_patch16_224", pretrained, **kwargs)


@register_model
def videomamba_tiny_patch16_448(pretrained: bool = False, **kwargs: Any) -> Vim:
    """VideoMamba-Ti for images of 448 pixels."""
    return _create("videomamba_tiny_patch16_448", pretrained, **kwargs)


@register_model
def videomamba_tiny_patch16_576(pretrained: bool = False, **kwargs: Any) -> Vim:
    """VideoMamba-Ti for images of 576 pixels."""
    return _create("videomamba_tiny_patch16_576", pretrained, **kwargs)


@register_model
def videomamba_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> Vim:
    """VideoMamba-S for images."""
    return _create("videomamba_small_patch16_224", pretrained, **kwargs)


@register_model
def videomamba_small_patch16_448(pretrained: bool = False, **kwargs: Any) -> Vim:
    """VideoMamba-S for images of 448 pixels."""
    return _create("videomamba_small_patch16_448", pretrained, **kwargs)


@register_model
def videomamba_small_patch16_576(pretrained: bool = False, **kwargs: Any) -> Vim:
    """VideoMamba-S for images of 576 pixels."""
    return _create("videomamba_small_patch16_576", pretrained, **kwargs)


@register_model
def videomamba_middle_patch16_224(pretrained: bool = False, **kwargs: Any) -> Vim:
    """VideoMamba-M for images: 32 blocks of 576 channels."""
    return _create("videomamba_middle_patch16_224", pretrained, **kwargs)


@register_model
def videomamba_middle_patch16_448(pretrained: bool = False, **kwargs: Any) -> Vim:
    """VideoMamba-M for images of 448 pixels."""
    return _create("videomamba_middle_patch16_448", pretrained, **kwargs)


@register_model
def videomamba_middle_patch16_576(pretrained: bool = False, **kwargs: Any) -> Vim:
    """VideoMamba-M for images of 576 pixels."""
    return _create("videomamba_middle_patch16_576", pretrained, **kwargs)


@register_model
def videomamba_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> Vim:
    """VideoMamba-B for images."""
    return _create("videomamba_base_patch16_224", pretrained, **kwargs)


register_model_deprecations(__name__, AUTHORS_NAMES)
