"""The mixer of the spectral FusionMamba: causal convolutions and scans along rows and columns, of one map or of two."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from vimzoo.layers import CausalConv, SelectiveSSM, apply_linear
from vimzoo.layers.checks import check_map, check_sizes
from vimzoo.layers.plain import apply_norm
from vimzoo.ops import linear, scan_codes
from vimzoo.ops.paths.path import BIDIRECTIONAL, ScanPath, path_codes

__all__ = ["GuidedSSM", "PathMamba"]

_COLUMN = ScanPath("column")


class GuidedSSM(SelectiveSSM):
    """A `SelectiveSSM` whose step sizes, B and C may come from other tokens than those that are scanned."""

    def forward(  # type: ignore[override]
        self, x: Tensor, z: Tensor, guide: Tensor | None, codes: list[int], height: int, width: int
    ) -> Tensor:
        """Scans ``x`` along the K paths, sums the results and multiplies them by ``silu(z)``.

        Args:
            x: Tokens ``(B, L, K, D)``.
            z: Gate ``(B, L, D)``.
            guide: Tokens ``(B, L, D)`` for step sizes, B and C; by default ``x``.
            codes: The paths, without a table.
            height, width: The grid, ``L = height * width``.

        Returns:
            ``(B, L, D)``.
        """
        if guide is None:
            rows = self.project(x)
        else:
            rows = linear(guide, self.x_proj.flatten(0, 1)).unflatten(-1, (self.directions, -1))
        rates, dt_proj, dt_bias = self.step_parameters()
        return scan_codes(
            x, rows, rates, dt_proj, dt_bias, self.D, z, codes=codes, table=None, height=height, width=width
        )


class PathMamba(nn.Module):
    """Mamba mixer of a map with one causal convolution and one scan per path (Peng et al. 2024).

    ``[x | z] = in_proj(h)``; per path a causal convolution, SiLU and a selective scan; the mean over the paths, times
    ``silu(z)``, goes through a norm and ``out_proj``. With a guide, step sizes, B and C are projected from it, without
    convolution and activation.

    Args:
        dim: Channels C of the map.
        d_state: States N per channel.
        d_conv: Taps of the convolutions.
        columns: Read columns, too; otherwise rows only. Both are read forward and backward.
        guided: Take a second map.

    Raises:
        ValueError: a size is not positive.
    """

    def __init__(
        self,
        dim: int,
        d_state: int = 8,
        d_conv: int = 4,
        columns: bool = True,
        guided: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(dim=dim, d_state=d_state, d_conv=d_conv)
        self.dim = dim
        paths = (*BIDIRECTIONAL, _COLUMN, _COLUMN.reversed()) if columns else BIDIRECTIONAL
        self.codes = path_codes(paths)
        self.in_proj = nn.Linear(dim, 2 * dim, bias=False, **dd)
        self.guide_proj = nn.Linear(dim, dim, bias=False, **dd) if guided else None
        self.row_conv = CausalConv(dim, d_conv, 2, **dd)
        self.column_conv = CausalConv(dim, d_conv, 2, **dd) if columns else None
        self.ssm = GuidedSSM(dim, d_state, math.ceil(dim / 16), len(paths), separate_inputs=True, **dd)
        self.norm = nn.LayerNorm(dim, **dd)
        self.out_proj = nn.Linear(dim, dim, bias=False, **dd)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """Maps ``(B, H, W, C) -> (B, H, W, C)``.

        Args:
            x: The map that is mixed.
            guide: A map of the same shape, if the mixer is guided.

        Raises:
            ValueError: ``x`` is not such a map.
        """
        x = check_map(x, self.dim, 3, 1)
        height, width = x.shape[1], x.shape[2]
        inner, z = apply_linear(self.in_proj, x).chunk(2, dim=-1)
        if guide is not None and self.guide_proj is not None:
            guide = apply_linear(self.guide_proj, guide).flatten(1, 2)
        y = self.ssm(self._convolved(inner), z.flatten(1, 2), guide, self.codes, height, width)
        y = apply_norm(self.norm, y / len(self.codes))
        return apply_linear(self.out_proj, y).reshape(x.shape)

    def _convolved(self, x: Tensor) -> Tensor:
        """``(B, H, W, D) -> (B, H W, K, D)``, in memory path after path."""
        rows = self.row_conv(x.flatten(1, 2))
        if self.column_conv is None:
            return rows
        columns = self.column_conv(x.transpose(1, 2).flatten(1, 2))
        columns = columns.unflatten(1, (x.shape[2], x.shape[1])).transpose(1, 2).flatten(1, 2)
        return torch.cat([rows.permute(2, 0, 1, 3), columns.permute(2, 0, 1, 3)]).permute(1, 2, 0, 3)
