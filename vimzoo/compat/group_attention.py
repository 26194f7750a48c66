"""Attention in groups of tokens, which is in MambaIR's repository but is used by none of its networks."""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from vimzoo.layers import apply_linear
from vimzoo.layers.attentive import relative_index
from vimzoo.models.mambair.names import MAMBAIR

from .official import Named

__all__ = ["DynamicPosBias", "GroupAttention"]


class DynamicPosBias(Named):
    """Position bias of attention heads as a small network of the offset between two tokens (ART, Zhang et al. 2023).

    Args:
        dim: Four times the network's width.
        num_heads: Heads.
    """

    dialect = MAMBAIR

    def __init__(
        self,
        dim: int,
        num_heads: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        width = dim // 4

        def layer(out: int) -> nn.Sequential:
            return nn.Sequential(nn.LayerNorm(width, **dd), nn.ReLU(), nn.Linear(width, out, **dd))

        self.pos_proj = nn.Linear(2, width, **dd)
        self.pos1, self.pos2, self.pos3 = layer(width), layer(width), layer(num_heads)

    def forward(self, biases: Tensor) -> Tensor:
        """Offsets ``(n, 2)`` -> bias ``(n, heads)``."""
        return self.pos3(self.pos2(self.pos1(self.pos_proj(biases))))


class GroupAttention(Named):
    """Self-attention within groups of ``H x W`` tokens, with a `DynamicPosBias`.

    Args:
        dim: Width C.
        num_heads: Heads.
        qkv_bias: Bias of the first projection.
        scale: Factor on the queries, by default ``head_dim ** -0.5``.
        position_bias: Whether offsets matter.
        attn_drop, proj_drop: Dropout of the attention and of the output.

    Raises:
        ValueError: Heads do not divide the width.
    """

    dialect = MAMBAIR

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        scale: float | None = None,
        position_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        if dim % num_heads:
            raise ValueError(f"num_heads: expected a divisor of {dim}, got {num_heads}")
        self.num_heads = num_heads
        self.scale = scale or (dim // num_heads) ** -0.5
        self.pos = DynamicPosBias(dim // 4, num_heads, **dd) if position_bias else None
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim, **dd)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, height: int, width: int, mask: Tensor | None = None) -> Tensor:
        """Groups of tokens ``(G B, H W, C)`` -> the same; ``mask (G, H W, H W)`` is added to the scores."""
        if x.shape[1] != height * width:
            raise ValueError(f"x: expected {height} x {width} tokens, got {x.shape[1]}")
        qkv = apply_linear(self.qkv, x)
        q, k, v = rearrange(qkv, "g t (three h c) -> three g h t c", three=3, h=self.num_heads)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        if self.pos is not None:
            scores = scores + self._bias(self.pos, height, width, scores)
        if mask is not None:
            scores = (scores.unflatten(0, (-1, mask.shape[0])) + mask.unsqueeze(1)).flatten(0, 1)
        y = self.attn_drop(scores.softmax(-1)) @ v
        return self.proj_drop(apply_linear(self.proj, rearrange(y, "g h t c -> g t (h c)")))

    def _bias(self, pos: nn.Module, height: int, width: int, like: Tensor) -> Tensor:
        """``(heads, H W, H W)``: the network on all ``(2H-1)(2W-1)`` offsets, looked up per pair."""
        rows = torch.arange(1 - height, height, device=like.device, dtype=like.dtype)
        columns = torch.arange(1 - width, width, device=like.device, dtype=like.dtype)
        table = pos(torch.cartesian_prod(rows, columns).reshape(-1, 2))
        return table[relative_index(height, width, like.device)].permute(2, 0, 1)
