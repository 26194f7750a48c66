"""The VMamba authors' single file (MzeroMiko/VMamba: vmamba.py at the top), whose arguments have other positions.

`vimzoo.compat.vmamba` has the positions of their classification code; everything else is the same and is here, too.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from . import vmamba
from .attributes import given_arguments
from .official import official_gradients, official_state_dict
from .vmamba import PUBLISHED, build_published, named
from .vmamba_layers import SS2D, Permute
from .vmamba_models import VSSM, Backbone_VSSM
from .vmamba_ops import (
    cross_merge_fn,
    cross_scan_fn,
    flops_selective_scan_fn,
    selective_scan_fn,
    selective_scan_torch,
)

__all__ = [
    "SS2D",
    "VSSM",
    "Backbone_VSSM",
    "Permute",
    "VSSBlock",
    "cross_merge_fn",
    "cross_scan_fn",
    "flops_selective_scan_fn",
    "official_gradients",
    "official_state_dict",
    "selective_scan_fn",
    "selective_scan_torch",
    "vanilla_vmamba_base",
    "vanilla_vmamba_small",
    "vanilla_vmamba_tiny",
    "vmamba_base_s1l20",
    "vmamba_base_s2l15",
    "vmamba_small_s1l20",
    "vmamba_small_s2l15",
    "vmamba_tiny_s1l8",
    "vmamba_tiny_s2l5",
]


class VSSBlock(vmamba.VSSBlock):
    """A block with the single file's arguments: ``channel_first`` is the third, and LayerNorm the only norm.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    def __init__(
        self,
        hidden_dim: int = 0,
        drop_path: float = 0,
        channel_first: bool = False,
        ssm_d_state: int = 16,
        ssm_ratio: float = 2.0,
        ssm_dt_rank: int | str = "auto",
        ssm_act_layer: Any = nn.SiLU,
        ssm_conv: int = 3,
        ssm_conv_bias: bool = True,
        ssm_drop_rate: float = 0,
        ssm_init: str = "v0",
        forward_type: str = "v2",
        mlp_ratio: float = 4.0,
        mlp_act_layer: Any = nn.GELU,
        mlp_drop_rate: float = 0.0,
        use_checkpoint: bool = False,
        post_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**given_arguments(locals()))


def _published(function: str) -> Callable[..., VSSM]:
    def with_layout(pretrained: bool = False, channel_first: bool = True, **kwargs: Any) -> VSSM:
        return build_published(function, pretrained, channel_first, kwargs)

    def plain(pretrained: bool = False, **kwargs: Any) -> VSSM:
        return build_published(function, pretrained, False, kwargs)

    return named(plain if "norm_layer" in PUBLISHED[function][1] else with_layout, function)


vanilla_vmamba_tiny = _published("vanilla_vmamba_tiny")
vanilla_vmamba_small = _published("vanilla_vmamba_small")
vanilla_vmamba_base = _published("vanilla_vmamba_base")
vmamba_tiny_s2l5 = _published("vmamba_tiny_s2l5")
vmamba_small_s2l15 = _published("vmamba_small_s2l15")
vmamba_base_s2l15 = _published("vmamba_base_s2l15")
vmamba_tiny_s1l8 = _published("vmamba_tiny_s1l8")
vmamba_small_s1l20 = _published("vmamba_small_s1l20")
vmamba_base_s1l20 = _published("vmamba_base_s1l20")
