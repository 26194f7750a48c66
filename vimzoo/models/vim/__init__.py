"""Vision Mamba (Vim): facts about its models, and their registration with timm; VideoMamba's image models are Vims.

`Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model`, Zhu et al.,
ICML 2024, arXiv:2401.09417; code and weights by its authors at https://github.com/hustvl/Vim (Apache-2.0).
"""

from functools import partial
from pathlib import Path
from typing import Any

from timm.models import generate_default_cfgs, register_model, register_model_deprecations

from ..facts import DIGITS, ModelFacts
from ..family import Family
from .class_maps import cam_arguments
from .creating import create
from .model import Vim, checkpoint_filter_fn
from .names import VIM, holds_vim
from .videomamba import AUTHORS_NAMES, VIDEOMAMBA_FACTS

__all__ = ["FAMILY", "VIDEOMAMBA_FACTS", "VIM_FACTS", "VIM_LONG_NAMES", "Vim", "checkpoint_filter_fn"]

_SOURCE: dict[str, Any] = dict(origin="https://github.com/hustvl/Vim", paper="2401.09417")
_README = "https://github.com/hustvl/Vim#model-weights"
_PRETRAIN = (
    "ImageNet-1k, 300 epochs, AdamW, lr 1e-3 cosine to 1e-5 after 5 warm-up epochs, EMA 0.99996, "
    "RandAugment, Mixup 0.8, CutMix 1.0, random erasing 0.25, repeated augmentation, float32; "
)
_FINETUNE = (
    "The model with stride 16, fine-tuned 30 epochs with stride 8, batch 1024, AdamW, constant lr 1e-5, "
    "weight decay 1e-8, EMA, position embeddings resized with official=True"
)

VIM_FACTS: dict[str, ModelFacts] = {
    facts.name: facts
    for facts in (
        ModelFacts(
            "vim_tiny_patch16_224", "in1k", args=dict(embed_dim=192), params=7_148_008,
            gflops=1.5, gflops_source="LocalMamba, arXiv:2403.09338",
            top1=76.1, top5=93.0, score_source=_README,
            hub_id="hustvl/Vim-tiny-midclstok", hub_file="vim_t_midclstok_76p1acc.pth",
            recipe=_PRETRAIN + "batch 1024, weight decay 0.1, no drop path", **_SOURCE,
        ),
        ModelFacts(
            "vim_tiny_patch16_stride8_224", "in1k_ft_stride8", args=dict(embed_dim=192, stride=8),
            params=7_250_344, top1=78.3, top5=94.2, score_source=_README,
            hub_id="hustvl/Vim-tiny-midclstok", hub_file="vim_t_midclstok_ft_78p3acc.pth",
            recipe=_FINETUNE, **_SOURCE,
        ),
        ModelFacts(
            "vim_tiny_patch16_384", "", args=dict(embed_dim=192, img_size=384), input_size=(3, 384, 384),
            params=7_220_968, crop_pct=1.0, note="no weights are published at this size", **_SOURCE,
        ),
        ModelFacts(
            "vim_small_patch16_224", "in1k", args=dict(embed_dim=384), params=25_796_584,
            gflops=5.1, gflops_source="LocalMamba, arXiv:2403.09338",
            top1=80.5, top5=95.1, score_source=_README,
            hub_id="hustvl/Vim-small-midclstok", hub_file="vim_s_midclstok_80p5acc.pth",
            recipe=_PRETRAIN + "batch 512, weight decay 0.05, drop path 0.05",
            note="the paper reports 80.3 and a batch of 1024", **_SOURCE,
        ),
        ModelFacts(
            "vim_small_patch16_stride8_224", "in1k_ft_stride8", args=dict(embed_dim=384, stride=8),
            params=26_001_256, top1=81.6, top5=95.4, score_source=_README,
            hub_id="hustvl/Vim-small-midclstok", hub_file="vim_s_midclstok_ft_81p6acc.pth",
            recipe=_FINETUNE, note="the paper reports 81.4", **_SOURCE,
        ),
        ModelFacts(
            "vim_base_patch16_224", "in1k", args=dict(embed_dim=768), params=97_598_440,
            top1=81.9, top5=95.8, score_source=_README,
            hub_id="hustvl/Vim-base-midclstok", hub_file="vim_b_midclstok_81p9acc.pth",
            recipe="no training script is published", **_SOURCE,
        ),
        ModelFacts(
            "vim_base_patch16_stride8_224", "", args=dict(embed_dim=768, stride=8), params=98_007_784,
            top1=83.2, score_source="arXiv:2401.09417v3", note="no weights are published", **_SOURCE,
        ),
        ModelFacts(
            "vim_digits", "",
            args=dict(
                img_size=16, patch_size=4, stride=2, embed_dim=64, depth=4, d_state=8, cls_token="none",
                global_pool="avg",
            ),
            input_size=(3, 16, 16), num_classes=10, params=145_482,
            note="not the authors'; `vimzoo-train` (in a clone also `python train.py`) trains it on scikit-learn's "
            "digits, with one channel",
            **_SOURCE,
        ),
        ModelFacts(
            "test_vim", "digits", args=dict(img_size=64, embed_dim=32, depth=3, d_state=8, dynamic_img_size=True),
            input_size=(3, 64, 64), params=57_514, note="for tests; our weights", shipped=Path(__file__).parent,
            recipe="`vimzoo-train experiment=digits_tests` on scikit-learn's digits",
            **(_SOURCE | DIGITS),
        ),
    )
}  # fmt: skip
"""By registered name. Depth is 24 and d_state 16 unless ``args`` says otherwise."""

_TAIL = "bimambav2_final_pool_mean_abs_pos_embed_with_"
VIM_LONG_NAMES: dict[str, str | None] = {
    f"vim_tiny_patch16_224_{_TAIL}midclstok_div2": "vim_tiny_patch16_224.in1k",
    f"vim_tiny_patch16_stride8_224_{_TAIL}midclstok_div2": "vim_tiny_patch16_stride8_224.in1k_ft_stride8",
    f"vim_small_patch16_224_{_TAIL}midclstok_div2": "vim_small_patch16_224.in1k",
    f"vim_small_patch16_stride8_224_{_TAIL}midclstok_div2": "vim_small_patch16_stride8_224.in1k_ft_stride8",
    f"vim_base_patch16_224_{_TAIL}middle_cls_token_div2": "vim_base_patch16_224.in1k",
}
"""The names that the authors register, which timm resolves with a warning."""

FAMILY = Family(
    "Vim",
    {**VIM_FACTS, **VIDEOMAMBA_FACTS},
    VIM,
    lambda state: Vim if holds_vim(state) else None,
    cam=cam_arguments,
    authors_names={**VIM_LONG_NAMES, **AUTHORS_NAMES},
)

default_cfgs = generate_default_cfgs(
    {
        name: cfg
        for facts in VIM_FACTS.values()
        for name, cfg in facts.timm_cfgs(
            first_conv="patch_embed.proj", classifier="head", fixed_input_size=facts.name != "test_vim"
        ).items()
    }
)


_create_vim = partial(create, VIM_FACTS)


@register_model
def vim_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> Vim:
    """Vim-Ti, class token in the middle."""
    return _create_vim("vim_tiny_patch16_224", pretrained, **kwargs)


@register_model
def vim_tiny_patch16_stride8_224(pretrained: bool = False, **kwargs: Any) -> Vim:
    """Vim-Ti+: Vim-Ti fine-tuned with half-overlapping patches."""
    return _create_vim("vim_tiny_patch16_stride8_224", pretrained, **kwargs)


@register_model
def vim_tiny_patch16_384(pretrained: bool = False, **kwargs: Any) -> Vim:
    """Vim-Ti at 384 pixels; no weights are published, those of 224 pixels load."""
    return _create_vim("vim_tiny_patch16_384", pretrained, **kwargs)


@register_model
def vim_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> Vim:
    """Vim-S."""
    return _create_vim("vim_small_patch16_224", pretrained, **kwargs)


@register_model
def vim_small_patch16_stride8_224(pretrained: bool = False, **kwargs: Any) -> Vim:
    """Vim-S+: Vim-S fine-tuned with half-overlapping patches."""
    return _create_vim("vim_small_patch16_stride8_224", pretrained, **kwargs)


@register_model
def vim_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> Vim:
    """Vim-B."""
    return _create_vim("vim_base_patch16_224", pretrained, **kwargs)


@register_model
def vim_base_patch16_stride8_224(pretrained: bool = False, **kwargs: Any) -> Vim:
    """Vim-B+; the paper reports 83.2 %, no weights are published."""
    return _create_vim("vim_base_patch16_stride8_224", pretrained, **kwargs)


@register_model
def vim_digits(pretrained: bool = False, **kwargs: Any) -> Vim:
    """A Vim of 0.14 million parameters for small pictures, such as scikit-learn's digits."""
    return _create_vim("vim_digits", pretrained, **kwargs)


@register_model
def test_vim(pretrained: bool = False, **kwargs: Any) -> Vim:
    """A model of 90 thousand parameters for tests, of any image size."""
    return _create_vim("test_vim", pretrained, **kwargs)


register_model_deprecations(__name__, VIM_LONG_NAMES)
