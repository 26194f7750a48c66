"""The GroupMamba authors' constructors (Amshaker/GroupMamba: classification/models/groupmamba.py), returning ours.

Code written for theirs works after changing its import line: arguments keep their names, positions, defaults and
meaning, and ``load_state_dict`` takes the authors' keys. `official_state_dict` and `official_gradients` write state and
gradients back under their names. `vimzoo.models.GroupMamba` documents each option.

As in theirs, a model with two classifiers returns both scores in training mode. Upstream bugs that are not imitated:
their gradients of the scans along columns are wrong on maps that are not square; an unknown argument is refused.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from vimzoo import models
from vimzoo.layers.grouped import GroupSS2D
from vimzoo.models.group_mamba import GROUP_MAMBA_FACTS

from .attributes import OfficialModel, given_arguments, refuse_unknown
from .official import accept_official_names, official_gradients, official_state_dict

__all__ = [
    "GroupMamba", "GroupMambaLayer", "groupmamba_base", "groupmamba_small", "groupmamba_tiny", "official_gradients",
    "official_state_dict",
]  # fmt: skip

_WITHOUT_EFFECT = ("drop_rate",)
"""What their training script passes on, and their ``**kwargs`` swallow."""
_OURS = ("device", "dtype")


class GroupMambaLayer(GroupSS2D):
    """The mixer with the authors' arguments; ``input_dim`` and ``output_dim`` must be the same.

    Raises:
        ValueError: an argument has no such value.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        d_state: int = 1,
        d_conv: int = 3,
        expand: float = 1,
        reduction: int = 16,
    ) -> None:
        if (output_dim, expand, reduction) != (input_dim, 1, 16):
            raise ValueError(
                f"output_dim, expand, reduction: expected {input_dim}, 1 and 16, others are not offered, got "
                f"{output_dim}, {expand} and {reduction}"
            )
        super().__init__(input_dim, d_state, d_conv)
        accept_official_names(self)

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:  # type: ignore[override]
        """Tokens ``(B, H W, C)`` -> the same."""
        return super().forward(x.unflatten(1, (H, W))).flatten(1, 2)


def _eps(norm_layer: Any) -> float:
    keywords = norm_layer.keywords if isinstance(norm_layer, partial) and not norm_layer.args else {}
    layer = norm_layer.func if isinstance(norm_layer, partial) else norm_layer
    if layer is not nn.LayerNorm or set(keywords) - {"eps"}:
        raise ValueError(
            "norm_layer: expected torch.nn.LayerNorm, or a partial of it with eps; others are not offered, got "
            f"{norm_layer!r}"
        )
    return keywords.get("eps", 1e-5)


class GroupMamba(OfficialModel, models.GroupMamba):
    """GroupMamba with the authors' arguments, positions and defaults.

    ``drop_rate`` has no effect, as in theirs; ``device`` and ``dtype`` are ours.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        stem_hidden_dim: int = 32,
        embed_dims: Sequence[int] = (64, 128, 348, 448),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        drop_path_rate: float = 0.0,
        norm_layer: Any = nn.LayerNorm,
        depths: Sequence[int] = (3, 4, 6, 3),
        num_stages: int = 4,
        distillation: bool = True,
        **kwargs: Any,
    ) -> None:
        given = given_arguments(locals())
        refuse_unknown("GroupMamba", kwargs, (*_WITHOUT_EFFECT, *_OURS))
        super().__init__(
            in_chans, num_classes, depths=depths[:num_stages], dims=embed_dims[:num_stages],
            mlp_ratios=mlp_ratios[:num_stages], stem_width=stem_hidden_dim, norm_eps=_eps(norm_layer),
            distilled=distillation, drop_path_rate=drop_path_rate, device=kwargs.get("device"),
            dtype=kwargs.get("dtype"),
        )  # fmt: skip
        self.arguments = given
        self.set_distilled_training()
        accept_official_names(self)


def _registered(name: str, pretrained: bool, options: Mapping[str, Any]) -> GroupMamba:
    """As their entrypoints, which do not load weights, whatever ``pretrained`` says."""
    facts: dict[str, Any] = {"depths": (3, 4, 9, 3), "dims": (64, 128, 348, 448), "stem_width": 32}
    facts |= GROUP_MAMBA_FACTS[name].args
    return GroupMamba(
        stem_hidden_dim=facts["stem_width"], embed_dims=facts["dims"], mlp_ratios=(8, 8, 4, 4),
        norm_layer=partial(nn.LayerNorm, eps=1e-6), depths=facts["depths"], **options,
    )  # fmt: skip


def groupmamba_tiny(pretrained: bool = False, **kwargs: Any) -> GroupMamba:
    """GroupMamba-T; ``pretrained`` has no effect, as in theirs."""
    return _registered("group_mamba_tiny", pretrained, kwargs)


def groupmamba_small(pretrained: bool = False, **kwargs: Any) -> GroupMamba:
    """GroupMamba-S; ``pretrained`` has no effect, as in theirs."""
    return _registered("group_mamba_small", pretrained, kwargs)


def groupmamba_base(pretrained: bool = False, **kwargs: Any) -> GroupMamba:
    """GroupMamba-B; ``pretrained`` has no effect, as in theirs."""
    return _registered("group_mamba_base", pretrained, kwargs)
