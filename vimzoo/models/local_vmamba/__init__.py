"""LocalVMamba: facts about its models, and their registration with timm.

`LocalMamba: Visual State Space Model with Windowed Selective Scan`, Huang et al., arXiv:2403.09338; code and weights by
its authors at https://github.com/hunto/LocalMamba (Apache-2.0).
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model, register_model_deprecations

from ..facts import ModelFacts
from ..family import Family
from ..vmamba.class_maps import cam_arguments
from ..weights.loading import build_model, map_features
from .model import LocalVMamba
from .names import LOCAL_VMAMBA, checkpoint_filter_fn, holds_local_vmamba

__all__ = ["FAMILY", "LOCAL_VMAMBA_FACTS", "LOCAL_VMAMBA_NAMES", "LocalVMamba", "checkpoint_filter_fn"]

TINY_DIRECTIONS = tuple(
    tuple(names.split())
    for names in (
        "h h_flip w7 w7_flip", "h_flip v_flip w2 w2_flip", "h_flip v_flip w2_flip w7", "h_flip v v_flip w2",
        "h h_flip v_flip w2_flip", "h_flip v_flip w2 w2_flip", "h w2_flip w7 w7_flip", "h h_flip v v_flip",
        "h v_flip w7 w7_flip", "h_flip v w2 w7_flip", "v v_flip w2 w7_flip", "h h_flip v_flip w2_flip",
        "v_flip w2_flip w7 w7_flip", "h_flip v_flip w2_flip w7_flip", "h_flip v w7 w7_flip",
    )
)  # fmt: skip
SMALL_DIRECTIONS = tuple(
    tuple(names.split())
    for names in (
        "h v v_flip w7_flip", "h h_flip v w7", "h_flip v v_flip w7", "h_flip v w2_flip w7", "h_flip v w2_flip w7",
        "h_flip v_flip w2 w7_flip", "h_flip v v_flip w7", "h v v_flip w7", "h v v_flip w7", "h v v_flip w7_flip",
        "h h_flip v v_flip", "h v v_flip w2", "v v_flip w2_flip w7", "h h_flip v w2", "h_flip v v_flip w7_flip",
        "h h_flip v v_flip", "h v v_flip w7_flip", "h v v_flip w7_flip", "h h_flip v_flip w7",
        "h_flip v_flip w2_flip w7", "h_flip v v_flip w7_flip", "v v_flip w7 w7_flip", "h v v_flip w7_flip",
        "h_flip v v_flip w2", "h v v_flip w2_flip", "h h_flip v w7", "h h_flip w7 w7_flip", "h v_flip w2 w2_flip",
        "h v_flip w2 w7", "h v v_flip w7_flip", "h_flip v w2_flip w7", "h_flip v_flip w7 w7_flip", "h v w7 w7_flip",
    )
)  # fmt: skip
"""The authors' results of the searches, one set per block."""

_SOURCE: dict[str, Any] = dict(origin="https://github.com/hunto/LocalMamba", paper="2403.09338")
_README = "https://github.com/hunto/LocalMamba#image-classification-on-imagenet-dataset"
_PUBLISHED: dict[str, Any] = dict(gflops_source=_README, score_source=_README)
_RECIPE = (
    "ImageNet-1k, 300 epochs, batch 1024, AdamW, lr 1e-3 cosine to 1e-6 after 20 warm-up epochs, weight decay 0.04, "
    "drop path 0.2, label smoothing 0.1, RandAugment, Mixup 0.2, CutMix 1.0, random erasing 0.25"
)
_SMALL_DEPTHS = (2, 2, 27, 2)

LOCAL_VMAMBA_FACTS: dict[str, ModelFacts] = {
    facts.name: facts
    for facts in (
        ModelFacts(
            "local_vmamba_tiny", "", args=dict(dims=96, directions=TINY_DIRECTIONS), params=25_527_160,
            gflops=5.7, top1=82.7, recipe=_RECIPE, note="the authors announce weights and publish none",
            **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "local_vmamba_small", "in1k", args=dict(depths=_SMALL_DEPTHS, dims=96, directions=SMALL_DIRECTIONS),
            params=49_748_536, gflops=11.4, top1=83.7, recipe=_RECIPE,
            url="https://github.com/hunto/LocalMamba/releases/download/v1.0.0/local_vssm_small.ckpt",
            **_PUBLISHED, **_SOURCE,
        ),
        ModelFacts(
            "local_vmamba_tiny_search", "", args=dict(dims=32), params=4_576_656,
            note="the network of the search; no weights are published", **_SOURCE,
        ),
        ModelFacts(
            "local_vmamba_small_search", "", args=dict(depths=_SMALL_DEPTHS, dims=32), params=9_148_512,
            note="the network of the search; no weights are published", **_SOURCE,
        ),
        ModelFacts(
            "test_local_vmamba", "",
            args=dict(
                depths=(1, 1, 1, 1), dims=(24, 32, 48, 64), d_state=2,
                directions=(("h", "w3_flip"), ("v", "h_flip"), ("w2", "w2_flip"), ("v_flip", "h")),
            ),
            input_size=(3, 64, 64), params=159_578, note="for tests", **_SOURCE,
        ),
    )
}  # fmt: skip
"""By registered name."""

LOCAL_VMAMBA_NAMES: dict[str, str | None] = {
    "local_vssm_tiny": "local_vmamba_tiny",
    "local_vssm_small": "local_vmamba_small.in1k",
    "local_vssm_tiny_search": "local_vmamba_tiny_search",
    "local_vssm_small_search": "local_vmamba_small_search",
}
"""The names that the authors register, which timm resolves with a warning."""

FAMILY = Family(
    "LocalVMamba",
    LOCAL_VMAMBA_FACTS,
    LOCAL_VMAMBA,
    lambda state: LocalVMamba if holds_local_vmamba(state) else None,
    cam=cam_arguments,
    authors_names=LOCAL_VMAMBA_NAMES,
)

default_cfgs = generate_default_cfgs(
    {
        name: cfg
        for facts in LOCAL_VMAMBA_FACTS.values()
        for name, cfg in facts.timm_cfgs(
            first_conv="patch_embed.conv1",
            classifier="head.fc",
            pool_size=(facts.input_size[1] // 32, facts.input_size[2] // 32),
        ).items()
    }
)


def _create_local_vmamba(variant: str, pretrained: bool = False, **kwargs: Any) -> LocalVMamba:
    """With ``features_only=True``, ``output_fmt="NHWC"`` gives maps with channels last."""
    return build_model(
        LocalVMamba,
        variant,
        pretrained,
        checkpoint_filter_fn,
        feature_cfg=map_features(kwargs),
        **{**LOCAL_VMAMBA_FACTS[variant].args, **kwargs},
    )


@register_model
def local_vmamba_tiny(pretrained: bool = False, **kwargs: Any) -> LocalVMamba:
    """LocalVMamba-T, directions as searched."""
    return _create_local_vmamba("local_vmamba_tiny", pretrained, **kwargs)


@register_model
def local_vmamba_small(pretrained: bool = False, **kwargs: Any) -> LocalVMamba:
    """LocalVMamba-S, directions as searched."""
    return _create_local_vmamba("local_vmamba_small", pretrained, **kwargs)


@register_model
def local_vmamba_tiny_search(pretrained: bool = False, **kwargs: Any) -> LocalVMamba:
    """The network in which LocalVMamba-T's directions are searched."""
    return _create_local_vmamba("local_vmamba_tiny_search", pretrained, **kwargs)


@register_model
def local_vmamba_small_search(pretrained: bool = False, **kwargs: Any) -> LocalVMamba:
    """The network in which LocalVMamba-S's directions are searched."""
    return _create_local_vmamba("local_vmamba_small_search", pretrained, **kwargs)


@register_model
def test_local_vmamba(pretrained: bool = False, **kwargs: Any) -> LocalVMamba:
    """A small model for tests."""
    return _create_local_vmamba("test_local_vmamba", pretrained, **kwargs)


register_model_deprecations(__name__, LOCAL_VMAMBA_NAMES)
