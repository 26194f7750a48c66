"""Spatial-Mamba's mixer: the states of one scan, mixed with those of neighbours on the map (Xiao et al. 2024)."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from vimzoo.ops import scan_codes
from vimzoo.ops.mixers import Ready
from vimzoo.ops.paths.path import ScanPath

from .checks import check_map, check_sizes
from .position_block import PositionBlock
from .ss2d import SS2D

DILATIONS = (1, 3, 5)
"""Distances between the taps of the three filters (section 4.1)."""


class StateFusion(nn.Module):
    """Sum of three depthwise 3 x 3 convolutions of dilation 1, 3 and 5, each times a learned factor.

    Beyond the edge of the map are the values at the edge, so maps may be as small as 1 x 1.

    Parameters: ``weight (3, D, 1, 3, 3)``, ``alpha (3,)``.

    Args:
        dim: Channels D.

    Raises:
        ValueError: ``dim`` is not positive.
    """

    def __init__(
        self, dim: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        check_sizes(dim=dim)
        self.dim = dim
        self.weight = nn.Parameter(torch.empty(len(DILATIONS), dim, 1, 3, 3, device=device, dtype=dtype))
        self.alpha = nn.Parameter(torch.empty(len(DILATIONS), device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Ones, as the authors start."""
        nn.init.ones_(self.weight)
        nn.init.ones_(self.alpha)

    def forward(self, h: Tensor) -> Tensor:
        """Map ``(B, H, W, D) -> (B, H, W, D)``.

        Raises:
            ValueError: ``h`` is not such a map, or has no positions.
        """
        h = check_map(h, self.dim, 3, 1).permute(0, 3, 1, 2)
        weight = self.weight * self.alpha.reshape(-1, 1, 1, 1, 1)
        fused = self._filtered(h, weight[0], 1) + self._filtered(h, weight[1], 3)
        return (fused + self._filtered(h, weight[2], 5)).permute(0, 2, 3, 1)

    def _filtered(self, h: Tensor, weight: Tensor, dilation: int) -> Tensor:
        padded = F.pad(h, [dilation, dilation, dilation, dilation], mode="replicate")
        return F.conv2d(padded, weight, dilation=[dilation, dilation], groups=self.dim)

    def extra_repr(self) -> str:
        return f"{self.dim}"


@register_notrace_module  # sizes decide, which FX cannot follow
class SpatialSS2D(SS2D):
    """A scan along the rows with one state per channel, whose states are fused on the map before they are read out.

    ``[x | z] = in_proj(u)``; a depthwise convolution and SiLU; ``h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t``; then
    ``y = C fusion(h) + D x``, with `StateFusion`; LayerNorm, times ``silu(z)``; ``out_proj`` (section 4, equation 5).

    Args:
        dim: Channels C of the map.
        ratio: Inner width in multiples of ``dim``.
        dt_rank: Rank of the step-size projection, by default ``ceil(dim / 16)``.
        drop_rate: Dropout of the output.
        **steps: As `SelectiveSSM` takes them: ``dt_min``, ``dt_max``, ``dt_floor``, ``dt_scale``, ``dt_init``.

    Raises:
        ValueError: an option has an unknown value, or a size is not positive.
    """

    fusion_class: type[StateFusion] = StateFusion

    def __init__(
        self,
        dim: int,
        ratio: float = 2.0,
        dt_rank: int | None = None,
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **steps: Any,
    ) -> None:
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(
            dim, 1, ratio, dt_rank, conv_bias=True, gate="act", paths=(ScanPath("row"),), drop_rate=drop_rate,
            **steps, **dd,
        )  # fmt: skip
        self.fusion = self.fusion_class(self.ssm.dim, **dd)

    @torch.jit.ignore
    def prepare(self, x: Tensor, norm: nn.Module | None = None, add: bool = False) -> Ready | None:
        """``None``: the call in one does not return states."""
        return None

    def scan(self, x: Tensor) -> Tensor:
        """The scan and the fusion alone, on a map ``(B, H, W, D)`` of the inner width."""
        height, width = x.shape[1], x.shape[2]
        tokens = x.flatten(1, 2)
        rows = self.ssm.project(tokens)  # [dt | B | C]
        last = rows.shape[3] - 1
        rates, dt_proj, dt_bias = self.ssm.step_parameters()
        h = scan_codes(
            tokens, rows[:, :, :, :last], rates, dt_proj, dt_bias, None, None, codes=self.codes, table=None,
            height=height, width=width,
        )  # fmt: skip
        readout = rows[:, :, 0, last:].reshape(x.shape[0], height, width, 1)
        return self.fusion(h.reshape(x.shape)) * readout + x * self.ssm.D


class SpatialBlock(PositionBlock):
    """`PositionBlock` with a `SpatialSS2D`.

    Args:
        dim: Channels C of the map.
        ratio, dt_rank, **steps: As `SpatialSS2D` takes them.
        ssm_drop_rate: Dropout of the mixer's output.
        mlp_ratio, mlp_drop_rate, drop_path: As `PositionBlock` takes them.

    Raises:
        ValueError: an option has an unknown value, or a size is not positive.
    """

    scan_class: type[SpatialSS2D] = SpatialSS2D

    def __init__(
        self,
        dim: int,
        ratio: float = 2.0,
        dt_rank: int | None = None,
        ssm_drop_rate: float = 0.0,
        mlp_ratio: float = 4.0,
        mlp_drop_rate: float = 0.0,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **steps: Any,
    ) -> None:
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        mixer = self.scan_class(dim, ratio, dt_rank, ssm_drop_rate, **steps, **dd)
        super().__init__(dim, mixer, mlp_ratio, mlp_drop_rate, drop_path, **dd)
