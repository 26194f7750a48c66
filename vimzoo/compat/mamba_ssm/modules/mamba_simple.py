"""The Mamba mixer with the arguments of mamba_ssm and of the Vim authors' fork."""

from typing import Any

import torch
from torch import Tensor

from vimzoo.layers import BiMamba

from ...attributes import OfficialAttributes, View
from ...official import accept_official_names

__all__ = ["Mamba", "refuse_inference"]


class Mamba(OfficialAttributes, BiMamba):
    """Mamba mixer with the fork's arguments, whose meanings `BiMamba` documents.

    ``bimamba_type`` is ``bimamba``, ``if_divide_out`` (or ``if_devide_out``) is ``divide_out``,
    ``init_layer_scale`` is ``layer_scale``, ``bias`` is ``proj_bias``, ``dt_init_floor`` is ``dt_floor``;
    ``dt_rank="auto"`` is ``None``. ``bimamba_type="v3"`` and ``nslices``, which is ``slices``, are SegMamba's fork's.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    A_log, D, A_b_log = View("ssm.A_log", 0), View("ssm.D", 0), View("ssm.A_log", 1)
    D_b = View("ssm.D", 1)

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
        bimamba_type: str | None = "none",
        if_divide_out: bool = False,
        init_layer_scale: float | None = None,
        if_devide_out: bool = False,
        nslices: int = 5,
    ) -> None:
        super().__init__(
            d_model,
            bimamba_type or "none",
            d_state,
            d_conv,
            expand,
            None if isinstance(dt_rank, str) else dt_rank,
            conv_bias,
            proj_bias=bias,
            divide_out=if_divide_out or if_devide_out,
            layer_scale=init_layer_scale,
            dt_min=dt_min,
            dt_max=dt_max,
            dt_floor=dt_init_floor,
            dt_scale=dt_scale,
            dt_init=dt_init,
            slices=nslices if bimamba_type == "v3" else 1,
            device=device,
            dtype=dtype,
        )
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner, self.dt_rank = self.ssm.dim, self.ssm.dt_rank
        self.layer_idx, self.use_fast_path = layer_idx, use_fast_path
        self.bimamba_type, self.if_divide_out = self.bimamba, if_divide_out or if_devide_out
        self.nslices = nslices
        self.init_layer_scale, self.activation = init_layer_scale, "silu"
        accept_official_names(self)

    def forward(self, hidden_states: Tensor, inference_params: Any = None) -> Tensor:
        """Tokens ``(B, L, D) -> (B, L, D)``; ``inference_params`` must be ``None``."""
        refuse_inference(inference_params)
        return super().forward(hidden_states)

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> None:
        """Refused: raises ``NotImplementedError``."""
        refuse_inference("step")

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> None:
        """Refused: raises ``NotImplementedError``."""
        refuse_inference("allocate_inference_cache")


def refuse_inference(inference_params: Any) -> None:
    """Raise ``NotImplementedError`` where token-by-token inference is asked for."""
    if inference_params is not None:
        raise NotImplementedError("inference_params: expected None; token-by-token inference is not offered")
