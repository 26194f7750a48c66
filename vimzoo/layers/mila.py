"""MILA's mixer: linear attention with rotated queries and keys, between a convolution and a gate (Han et al. 2024)."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from .checks import check_map, check_sizes
from .linear import apply_linear
from .plain import apply_conv
from .position_block import PositionBlock

EPS = 1e-6
"""Added to the normaliser of the attention."""


@register_notrace_module  # sizes decide, which FX cannot follow
class RotaryLinearAttention(nn.Module):
    """Linear attention on a map, whose cost grows with the number of positions, and a convolution of the values.

    ``q, k = ELU(qk(v)) + 1``. Copies ``q_r, k_r`` are rotated, pair by pair of channels, by angles that grow with a
    position's row (first half of the channels) or column. Per head ``o = q_r (k_r^T v) / n``, divided by ``q mean(k)``
    of those that are not rotated (section 5). The depthwise 3 x 3 convolution ``lepe`` of the values is added.

    Angles follow from the map, so that maps may have any size.

    Args:
        dim: Channels C, a multiple of 4.
        num_heads: Heads, which divide the channels.
        qk_bias: Whether the projection to queries and keys has a bias.
        theta: Base of the geometric series of angles.

    Raises:
        ValueError: a size is not positive, ``dim`` is not a multiple of 4, or the heads do not divide it.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qk_bias: bool = True,
        theta: float = 10000.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(dim=dim, num_heads=num_heads)
        if dim % 4:
            raise ValueError(f"dim: expected a multiple of 4, got {dim}")
        if dim % num_heads:
            raise ValueError(f"num_heads: expected a number that divides {dim} channels, got {num_heads}")
        self.dim = dim
        self.num_heads = num_heads
        self.theta = theta
        self.eps = EPS
        self.qk = nn.Linear(dim, 2 * dim, bias=qk_bias, **dd)
        self.lepe = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd)

    def forward(self, v: Tensor) -> Tensor:
        """Map ``(B, H, W, C) -> (B, H, W, C)``.

        Raises:
            ValueError: ``v`` is not such a map, or has no positions.
        """
        v = check_map(v, self.dim, 3, 1)
        if torch.jit.is_scripting():
            q, k = (F.elu(self.qk(v)) + 1.0).chunk(2, dim=-1)
            local = self.lepe(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        else:
            q, k = (F.elu(apply_linear(self.qk, v)) + 1.0).chunk(2, dim=-1)
            local = apply_conv(self.lepe, v)
        return self.attend(q, k, v).to(local.dtype) + local

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The attention alone, of maps ``(B, H, W, C)``."""
        cos, sin = self.tables(v.shape[1], v.shape[2], v.device)
        scale = 1.0 / (v.shape[1] * v.shape[2])
        weight = (q * k.mean((1, 2), keepdim=True)).unflatten(3, (self.num_heads, -1)).sum(-1, keepdim=True)
        keys, values = self._heads(rotate(k, cos, sin) * scale), self._heads(v)
        out = self._heads(rotate(q, cos, sin)) @ (keys.transpose(2, 3) @ values)  # (B, heads, H W, C / heads)
        out = out.transpose(1, 2).unflatten(1, (v.shape[1], v.shape[2])) / (weight + self.eps)
        return out.flatten(3)

    def _heads(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, heads, H W, C / heads)``."""
        return x.flatten(1, 2).unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def tables(self, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines of every position and pair of channels, float32 ``(H, W, C / 2)``."""
        count = self.dim // 4
        rates = self.theta ** (-torch.arange(count, device=device, dtype=torch.float32) / count)
        rows = torch.arange(height, device=device, dtype=torch.float32)[:, None] * rates
        columns = torch.arange(width, device=device, dtype=torch.float32)[:, None] * rates
        shape = (height, width, count)
        angles = torch.cat([rows[:, None].expand(shape), columns[None].expand(shape)], dim=-1)
        return angles.cos(), angles.sin()

    def extra_repr(self) -> str:
        return f"{self.dim}, num_heads={self.num_heads}"


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs of channels ``2 i, 2 i + 1`` of ``x (..., C)``, rotated by angles in tables ``(..., C / 2)``; x's dtype."""
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)


class GatedLinearAttention(nn.Module):
    """MILA's mixer: ``v = SiLU(conv(in_proj(x)))``, then ``out_proj(attention(v) * SiLU(gate_proj(x)))``.

    The places of Mamba's parts, with linear attention in place of the scan (section 5, figure 3). There is no scan.

    Args:
        dim: Channels C.
        num_heads, qk_bias, theta: As `RotaryLinearAttention` takes them.

    Raises:
        ValueError: as `RotaryLinearAttention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qk_bias: bool = True,
        theta: float = 10000.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.attention = RotaryLinearAttention(dim, num_heads, qk_bias, theta, **dd)
        self.dim = dim
        self.in_proj = nn.Linear(dim, dim, **dd)
        self.gate_proj = nn.Linear(dim, dim, **dd)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd)
        self.act = nn.SiLU()
        self.out_proj = nn.Linear(dim, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C) -> (B, H, W, C)``.

        Raises:
            ValueError: ``x`` is not such a map, or has no positions.
        """
        x = check_map(x, self.dim, 3, 1)
        if torch.jit.is_scripting():
            gate = self.act(self.gate_proj(x))
            v = self.act(self.conv(self.in_proj(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
            return self.out_proj(self.attention(v) * gate)
        gate = self.act(apply_linear(self.gate_proj, x))
        v = apply_conv(self.conv, apply_linear(self.in_proj, x), self.act)
        return apply_linear(self.out_proj, self.attention(v) * gate)


class MilaBlock(PositionBlock):
    """`PositionBlock` with a `GatedLinearAttention`.

    Args:
        dim: Channels C of the map.
        num_heads, qk_bias: As `RotaryLinearAttention` takes them.
        mlp_ratio, mlp_drop_rate, drop_path: As `PositionBlock` takes them.

    Raises:
        ValueError: an option has an unknown value, or a size is not positive.
    """

    mixer_class: type[GatedLinearAttention] = GatedLinearAttention

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qk_bias: bool = True,
        mlp_ratio: float = 4.0,
        mlp_drop_rate: float = 0.0,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        mixer = self.mixer_class(dim, num_heads, qk_bias, **dd)
        super().__init__(dim, mixer, mlp_ratio, mlp_drop_rate, drop_path, **dd)
