"""PlainMamba's block: a map read along four snakes, each step told the direction it came from (Yang et al. 2024)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, register_notrace_module, trunc_normal_
from torch import Tensor, nn

from vimzoo.ops import scan_codes
from vimzoo.ops.paths.path import SNAKES, path_arguments, path_codes, path_moves, path_names, path_steps

from .checks import check_map, check_rates, check_sizes, inner_width
from .linear import apply_linear
from .plain import apply_conv, apply_norm
from .scripted import scripted_table
from .ssm import PARAMETERS, SelectiveSSM

MOVES = 5
"""The first step of a path, and steps to the right, to the left, up and down."""


@register_notrace_module  # the orders of tokens follow from sizes, which FX cannot follow
class SnakeSS2D(nn.Module):
    """Two-dimensional selective scan along four snakes that share all parameters.

    ``[x | z] = in_proj(h)``; a depthwise convolution and SiLU; the scan, whose matrix B has a learned vector added for
    the move that led to each step; times ``silu(z)``; ``out_proj``. As in the authors' code step l of each snake has
    the step size, B and C of the map's l-th position, and the bias of the step sizes counts twice.

    Args:
        dim: Channels C of the map.
        d_state: States N per channel.
        expand: Inner width in multiples of ``dim``.
        dt_rank: Rank of the step-size projection, by default ``ceil(dim / 16)``.
        d_conv: Size of the convolution, odd.
        conv_bias, proj_bias: Whether the convolution and the two projections have a bias.
        layer_scale: Initial value of a learned per-channel factor on the output; ``None`` for none.
        **steps: As `SelectiveSSM` takes them: ``dt_min``, ``dt_max``, ``dt_floor``, ``dt_scale``, ``dt_init``.

    Raises:
        ValueError: a size is not positive, or ``d_conv`` is even.
    """

    def __init__(
        self,
        dim: int,
        d_state: int = 16,
        expand: float = 2,
        dt_rank: int | None = None,
        d_conv: int = 7,
        conv_bias: bool = True,
        proj_bias: bool = True,
        layer_scale: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **steps: Any,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(dim=dim, d_state=d_state, d_conv=d_conv)
        if d_conv % 2 == 0:
            raise ValueError(f"d_conv: expected an odd size, which keeps the size of the map, got {d_conv}")
        inner = inner_width("expand", expand, dim)
        self.dim = dim
        self.layer_scale = layer_scale
        self.path_names, self.codes = path_names(SNAKES), path_codes(SNAKES)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=proj_bias, **dd)
        self.conv = nn.Conv2d(inner, inner, d_conv, padding=d_conv // 2, groups=inner, bias=conv_bias, **dd)
        self.act = nn.SiLU()
        rank = math.ceil(dim / 16) if dt_rank is None else dt_rank
        self.ssm = SelectiveSSM(inner, d_state, rank, len(SNAKES), shared=PARAMETERS, **steps, **dd)
        self.moves = nn.Parameter(torch.empty(MOVES, d_state, **dd))
        self.out_proj = nn.Linear(inner, dim, bias=proj_bias, **dd)
        self.gamma = None if layer_scale is None else nn.Parameter(torch.empty(dim, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small vectors of the moves; the parts initialise themselves."""
        trunc_normal_(self.moves, std=0.02)
        if self.gamma is not None and self.layer_scale is not None:
            nn.init.constant_(self.gamma, self.layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C) -> (B, H, W, C)``.

        Raises:
            ValueError: ``x`` is not such a map, or has no positions.
        """
        x = check_map(x, self.dim, 3, 1)
        if torch.jit.is_scripting():
            inner, z = self.in_proj(x).chunk(2, dim=-1)
            u = self.act(self.conv(inner.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
            y = self.out_proj(self.scan(u, z).reshape(u.shape))
        else:
            inner, z = apply_linear(self.in_proj, x).chunk(2, dim=-1)
            u = apply_conv(self.conv, inner, self.act)
            y = apply_linear(self.out_proj, self.scan(u, z).reshape(u.shape))
        return y if self.gamma is None else y * self.gamma

    def scan(self, u: Tensor, z: Tensor) -> Tensor:
        """The gated scan alone, on maps ``(B, H, W, D)`` -> ``(B, H W, D)``."""
        height, width = u.shape[1], u.shape[2]
        tokens = u.flatten(1, 2)
        table: Tensor | None = None
        if torch.jit.is_scripting():
            steps = scripted_table("steps", self.path_names, height, width, u.device)
            moves = scripted_table("moves", self.path_names, height, width, u.device)
            table = scripted_table("tokens", self.path_names, height, width, u.device)
        else:
            steps = path_steps(SNAKES, height, width, u.device)
            moves = path_moves(SNAKES, height, width, u.device)
            _, table = path_arguments(SNAKES, height, width, u.device)
        # each position gets the row of the position that its step is the number of
        rows = self.ssm.project(tokens).squeeze(2)
        rows = rows.index_select(1, steps.T.flatten()).unflatten(1, steps.T.shape)
        states = self.ssm.d_state
        told = F.pad(self.moves[moves.T], (self.ssm.dt_rank, states)).to(rows.dtype)
        rates, dt_proj, dt_bias = self.ssm.step_parameters()
        return scan_codes(
            tokens, rows + told, rates, dt_proj, 2 * dt_bias, self.ssm.D, z.flatten(1, 2),
            codes=self.codes, table=table, height=height, width=width,
        )  # fmt: skip


class PlainMambaBlock(nn.Module):
    """``x + SnakeSS2D(norm(x))``, then, if there is one, a depthwise convolution, batch norm and GELU in its place.

    Args:
        dim: Channels C of the map.
        dw_conv: Whether to have the convolution.
        drop_path: Rate at which the scan is dropped.
        norm: ``"layer"`` or ``"rms"``.
        mixer_args: Keyword arguments of `SnakeSS2D`.

    Raises:
        ValueError: as `SnakeSS2D`, ``norm`` is neither name, or ``drop_path`` is not in 0..1.
    """

    def __init__(
        self,
        dim: int,
        dw_conv: bool = False,
        drop_path: float = 0.0,
        norm: str = "layer",
        mixer_args: Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_rates(drop_path=drop_path)
        if norm not in ("layer", "rms"):
            raise ValueError(f"norm: expected 'layer' or 'rms', got {norm!r}")
        self.norm: nn.Module = nn.LayerNorm(dim, **dd) if norm == "layer" else nn.RMSNorm(dim, 1e-5, **dd)
        self.mixer = SnakeSS2D(dim, **(mixer_args or {}), **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.dw: nn.Module | None = None
        if dw_conv:
            conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False, **dd)
            self.dw = nn.Sequential(conv, nn.BatchNorm2d(dim, **dd), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C) -> (B, H, W, C)``."""
        y = self.norm(x) if torch.jit.is_scripting() else apply_norm(self.norm, x)
        x = x + self.drop_path(self.mixer(y))
        return x if self.dw is None else self.dw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
