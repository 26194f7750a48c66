"""LocalVim: facts about its models, and their registration with timm.

`LocalMamba: Visual State Space Model with Windowed Selective Scan`, Huang et al., arXiv:2403.09338; code and weights by
its authors at https://github.com/hunto/LocalMamba (Apache-2.0).
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model

from ..facts import ModelFacts
from ..family import Family
from ..vim.class_maps import cam_arguments
from ..weights.loading import build_model
from .model import LocalVim
from .names import LOCAL_VIM, checkpoint_filter_fn, holds_local_vim

__all__ = ["FAMILY", "LOCAL_VIM_FACTS", "LocalVim", "checkpoint_filter_fn"]

TINY_DIRECTIONS = tuple(
    tuple(names.split())
    for names in (
        "h v_flip w7 w7_flip", "h_flip w2_flip w7 w7_flip", "h h_flip v w7", "h h_flip v v_flip",
        "h h_flip v v_flip", "h h_flip v v_flip", "h_flip v v_flip w7", "h_flip v v_flip w2_flip",
        "h h_flip v v_flip", "h h_flip v v_flip", "h v v_flip w2", "h v v_flip w2_flip",
        "h h_flip v_flip w7", "h_flip v v_flip w2", "h h_flip v v_flip", "h v w2 w2_flip",
        "v v_flip w2 w7", "h h_flip v w2", "h h_flip w2_flip w7", "v v_flip w2 w2_flip",
    )
)  # fmt: skip
"""The authors' result of the search, one set per block."""
WITHOUT_SEARCH = ("h", "h_flip", "w2", "w2_flip")

_SOURCE: dict[str, Any] = dict(origin="https://github.com/hunto/LocalMamba", paper="2403.09338")
_README = "https://github.com/hunto/LocalMamba#image-classification-on-imagenet-dataset"
_PUBLISHED: dict[str, Any] = dict(gflops_source=_README, score_source=_README)
_RELEASE = "https://github.com/hunto/LocalMamba/releases/download/v1.0.0"
_RECIPE = (
    "ImageNet-1k, 300 epochs, batch 1024, AdamW, lr 1e-3 cosine to 1e-6 after 20 warm-up epochs, weight decay 0.04, "
    "drop path 0.1, label smoothing 0.1, RandAugment, Mixup 0.2, CutMix 1.0, random erasing 0.25"
)
_MIDDLE: dict[str, Any] = dict(cls_token="middle", rope=False, rope_residual=False)

LOCAL_VIM_FACTS: dict[str, ModelFacts] = {
    facts.name: facts
    for facts in (
        ModelFacts(
            "local_vim_tiny", "in1k", args=dict(embed_dim=192, directions=TINY_DIRECTIONS), params=7_994_152,
            gflops=1.5, top1=76.2, url=f"{_RELEASE}/local_vim_tiny.ckpt", recipe=_RECIPE, **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "local_vim_tiny_middle_cls_token", "in1k",
            args=dict(embed_dim=192, directions=TINY_DIRECTIONS, **_MIDDLE), params=7_994_536,
            gflops=1.5, top1=77.8, url=f"{_RELEASE}/local_vim_tiny_middle_cls_token.ckpt", recipe=_RECIPE,
            **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "local_vim_tiny_wo_search", "", args=dict(embed_dim=192, directions=WITHOUT_SEARCH), params=7_994_152,
            note="rows and windows of 2 in every block; no weights are published", **_SOURCE,
        ),
        ModelFacts(
            "local_vim_tiny_search", "", args=dict(embed_dim=128), params=5_473_288,
            note="the network of the search, trained for 100 epochs; no weights are published", **_SOURCE,
        ),
        ModelFacts(
            "local_vim_small", "", args=dict(embed_dim=384, directions=WITHOUT_SEARCH), params=27_783_784,
            gflops=4.8, top1=81.1, recipe=_RECIPE,
            note="the authors define it twice, and the second definition is in force: rows and windows of 2 in every "
            "block; the first has local_vim_tiny's directions, and it is not known which one the accuracy belongs to. "
            "The address that they give for its weights is that of LocalVMamba-S",
            **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "test_local_vim", "",
            args=dict(
                img_size=64, embed_dim=32, depth=3, d_state=4,
                directions=(("h", "v_flip"), ("v", "w3_flip"), ("w2",)),
            ),
            input_size=(3, 64, 64), params=87_712, note="for tests", **_SOURCE,
        ),
    )
}  # fmt: skip
"""By registered name. Depth is 20 unless ``args`` says otherwise."""

FAMILY = Family(
    "LocalVim",
    LOCAL_VIM_FACTS,
    LOCAL_VIM,
    lambda state: LocalVim if holds_local_vim(state) else None,
    cam=cam_arguments,
)

default_cfgs = generate_default_cfgs(
    {
        name: cfg
        for facts in LOCAL_VIM_FACTS.values()
        for name, cfg in facts.timm_cfgs(first_conv="patch_embed.proj", classifier="head").items()
    }
)


def _create_local_vim(variant: str, pretrained: bool = False, **kwargs: Any) -> LocalVim:
    out_indices = kwargs.pop("out_indices", 3)
    return build_model(
        LocalVim,
        variant,
        pretrained,
        checkpoint_filter_fn,
        feature_cfg=dict(out_indices=out_indices, feature_cls="getter"),
        **{**LOCAL_VIM_FACTS[variant].args, **kwargs},
    )


@register_model
def local_vim_tiny(pretrained: bool = False, **kwargs: Any) -> LocalVim:
    """LocalVim-T, directions as searched."""
    return _create_local_vim("local_vim_tiny", pretrained, **kwargs)


@register_model
def local_vim_tiny_middle_cls_token(pretrained: bool = False, **kwargs: Any) -> LocalVim:
    """LocalVim-T with Vim's class token in the middle and without rotary embedding."""
    return _create_local_vim("local_vim_tiny_middle_cls_token", pretrained, **kwargs)


@register_model
def local_vim_tiny_wo_search(pretrained: bool = False, **kwargs: Any) -> LocalVim:
    """LocalVim-T, the same directions in all blocks."""
    return _create_local_vim("local_vim_tiny_wo_search", pretrained, **kwargs)


@register_model
def local_vim_tiny_search(pretrained: bool = False, **kwargs: Any) -> LocalVim:
    """The network in which LocalVim's directions are searched."""
    return _create_local_vim("local_vim_tiny_search", pretrained, **kwargs)


@register_model
def local_vim_small(pretrained: bool = False, **kwargs: Any) -> LocalVim:
    """LocalVim-S."""
    return _create_local_vim("local_vim_small", pretrained, **kwargs)


@register_model
def test_local_vim(pretrained: bool = False, **kwargs: Any) -> LocalVim:
    """A small model for tests."""
    return _create_local_vim("test_local_vim", pretrained, **kwargs)
