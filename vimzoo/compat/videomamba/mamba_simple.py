"""The VideoMamba authors' mixer and block: Vim's, with ``bimamba=True`` for two directions that are added up."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vimzoo.layers import BiMambaBlock

from ..mamba_ssm.modules import mamba_simple
from ..vim import create_block as create_vim_block

__all__ = ["Mamba", "create_block"]


def bimamba_type(bimamba: bool) -> str:
    """Vim's name of the authors' option."""
    return "v2" if bimamba else "none"


class Mamba(mamba_simple.Mamba):
    """The mixer with the authors' arguments. ``use_fast_path`` and ``layer_idx`` change no result.

    Raises:
        ValueError: an argument has no such value.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        use_fast_path: bool = True,
        layer_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        bimamba: bool = True,
    ) -> None:
        super().__init__(
            d_model, d_state, d_conv, expand, dt_rank, dt_min, dt_max, dt_init, dt_scale, dt_init_floor, conv_bias,
            bias, use_fast_path, layer_idx, device, dtype, bimamba_type(bimamba),
        )  # fmt: skip

    def forward(self, hidden_states: Tensor, inference_params: Any = None, T: int = 1) -> Tensor:
        """Tokens ``(B, L, D) -> (B, L, D)``; ``T`` changes nothing, ``inference_params`` must be ``None``."""
        return super().forward(hidden_states, inference_params)


def create_block(
    d_model: int,
    ssm_cfg: Mapping[str, Any] | None = None,
    norm_epsilon: float = 1e-5,
    drop_path: float = 0.0,
    rms_norm: bool = True,
    residual_in_fp32: bool = True,
    fused_add_norm: bool = True,
    layer_idx: int | None = None,
    bimamba: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> BiMambaBlock:
    """One block with the authors' arguments: ``(hidden_states, residual) -> (hidden_states, residual)``."""
    given = dict(ssm_cfg or {})
    return create_vim_block(
        d_model, given.pop("d_state", 16), given, norm_epsilon, drop_path, rms_norm, residual_in_fp32,
        fused_add_norm, layer_idx, device, dtype, bimamba_type=bimamba_type(bimamba),
    )  # fmt: skip
