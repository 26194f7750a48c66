"""mamba_ssm's names, of the Vim authors' fork and upstream: change the import line, keep the code.

`Mamba` is `vimzoo.layers.BiMamba`, `selective_scan_fn` is `vimzoo.ops.selective_scan`.

Not imitated: `use_fast_path=False` and `inference_params`, which silently turn the fork's bidirectional
mixers into forward ones; token-by-token inference is not offered.
"""

from typing import Any

import torch
from torch import Tensor

from vimzoo.layers import BiMamba
from vimzoo.ops import selective_scan as selective_scan_fn

from .official import accept_official_names

__all__ = ["Mamba", "selective_scan_fn"]


class Mamba(BiMamba):
    """Mamba mixer by the fork's arguments; `BiMamba` says what they mean.

    ``bimamba_type`` is ``bimamba``, ``if_divide_out`` (or ``if_devide_out``) is ``divide_out``,
    ``init_layer_scale`` is ``layer_scale``, ``bias`` is ``proj_bias``, ``dt_init_floor`` is ``dt_floor``;
    ``dt_rank="auto"`` is ``None``.

    Raises:
        TypeError: an argument is unknown.
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
        bimamba_type: str | None = "none",
        if_divide_out: bool = False,
        init_layer_scale: float | None = None,
        if_devide_out: bool = False,
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
            device=device,
            dtype=dtype,
        )
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner, self.dt_rank = self.ssm.dim, self.ssm.dt_rank
        self.layer_idx = layer_idx
        accept_official_names(self)

    def forward(self, hidden_states: Tensor, inference_params: Any = None) -> Tensor:
        """Tokens ``(B, L, D) -> (B, L, D)``; ``inference_params`` must be ``None``."""
        refuse_inference(inference_params)
        return super().forward(hidden_states)


def refuse_inference(inference_params: Any) -> None:
    """Raise ``NotImplementedError`` where token-by-token inference is asked for."""
    if inference_params is not None:
        raise NotImplementedError("inference_params: expected None; token-by-token inference is not offered")
