"""MambaIR's U-Net and its layers (csguoh/MambaIR: realDenoising), where arguments have other positions.

`vimzoo.compat.mambair` has those of the networks in ``basicsr/archs``, and `MambaIRUNet` too.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from . import mambair_layers
from .attributes import given_arguments
from .group_attention import DynamicPosBias
from .mambair_layers import BLOCK_NORM, SS2D, Attention, ChannelAttention
from .mambair_models import MambaIRUNet
from .official import official_gradients, official_state_dict

__all__ = [
    "CAB", "SS2D", "Attention", "ChannelAttention", "DynamicPosBias", "MambaIRUNet", "VSSBlock", "official_gradients",
    "official_state_dict",
]  # fmt: skip


class CAB(mambair_layers.CAB):
    """The channel-attention block of maps ``(B, C, H, W)``; the U-Net has no light form.

    Raises:
        ValueError: There are fewer channels than ``squeeze_factor``.
    """

    def __init__(self, num_feat: int, compress_ratio: int = 3, squeeze_factor: int = 30) -> None:
        super().__init__(num_feat, False, compress_ratio, squeeze_factor)


class VSSBlock(mambair_layers.VSSBlock):
    """The residual state-space block on tokens; the U-Net has no light form.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    def __init__(
        self,
        hidden_dim: int = 0,
        drop_path: float = 0,
        norm_layer: Callable[..., nn.Module] = BLOCK_NORM,
        attn_drop_rate: float = 0,
        d_state: int = 16,
        expand: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**given_arguments(locals()))
