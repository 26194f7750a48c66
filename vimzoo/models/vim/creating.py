"""Builds registered models of the class `Vim`."""

from collections.abc import Mapping
from typing import Any

from ..facts import ModelFacts
from ..weights.loading import build_model
from .ablations import OPTIONS, VimAblation
from .model import Vim, checkpoint_filter_fn


def create(facts: Mapping[str, ModelFacts], variant: str, pretrained: bool = False, **kwargs: Any) -> Vim:
    """The registered model ``variant``, with the arguments that ``facts`` state for it unless ``kwargs`` differ."""
    out_indices = kwargs.pop("out_indices", 3)
    return build_model(
        VimAblation if OPTIONS & kwargs.keys() else Vim,
        variant,
        pretrained,
        checkpoint_filter_fn,
        feature_cfg=dict(out_indices=out_indices, feature_cls="getter"),
        **{**facts[variant].args, **kwargs},
    )
