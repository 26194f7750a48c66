"""A layer's scan: its inputs, and the same work as the papers' authors compose it around a scan that is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vimzoo.ops import selective_scan

Inputs = tuple[Tensor | None, ...]
"""x, x_dbl, A, dt_weight, dt_bias, D, z, as `vimzoo.ops.scan_paths` takes them."""


def layer_inputs(
    batch: int, channels: int, states: int, rank: int, grid: tuple[int, int], *,
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
) -> Inputs:  # fmt: skip
    """Of Vim's layer, two directions with a gate, where the grid is one row; else of SS2D, four directions of one x.

    Strides are those that the layers around them leave: directions dense, the gate half of a wider tensor.
    """
    torch.manual_seed(0)
    length, K = grid[0] * grid[1], 2 if grid[0] == 1 else 4

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=dtype)

    x = randn(K, batch, length, channels).permute(1, 2, 0, 3) if K == 2 else randn(batch, length, channels)
    x_dbl = randn(K, batch, length, rank + 2 * states).permute(1, 2, 0, 3)
    A = -torch.rand(K, channels, states, device=device) * 4
    dt_weight = 0.3 * torch.randn(K, channels, rank, device=device)
    bias, skip = torch.full((K, channels), -4.0, device=device), torch.ones(K, channels, device=device)
    z = randn(batch, length, 2 * channels)[..., channels:] if K == 2 else None
    return x, x_dbl, A, dt_weight, bias, skip, z


def unfused(inputs: Inputs, grid: tuple[int, int], scan: Callable[..., Any] = selective_scan) -> Tensor:
    """`scan_paths` of `layer_inputs` around ``scan``, which has mamba_ssm's signature."""
    return (
        unfused_bidirectional(*inputs, scan=scan) if grid[0] == 1 else unfused_cross(*inputs, grid, scan=scan)
    )  # type: ignore


def unfused_bidirectional(
    x: Tensor, rows: Tensor, A: Tensor, dt_weight: Tensor, bias: Tensor, D: Tensor, z: Tensor,
    scan: Callable[..., Any] = selective_scan,
) -> Tensor:  # fmt: skip
    """Vim's layer as its authors compose it: flips, transposes, a dt product, two scans."""
    rank, states = dt_weight.shape[-1], A.shape[-1]
    outputs = []
    for k in range(2):
        u, row, gate = x[:, :, k].transpose(1, 2), rows[:, :, k], z.transpose(1, 2)
        if k:
            u, row, gate = u.flip(-1), row.flip(1), gate.flip(-1)
        low, B, C = row.split([rank, states, states], -1)
        delta = (low @ dt_weight[k].T.to(low.dtype)).transpose(1, 2)
        B, C = B.transpose(1, 2).contiguous(), C.transpose(1, 2).contiguous()
        y = scan(u.contiguous(), delta.contiguous(), A[k], B, C, D[k], gate.contiguous(), bias[k], True)
        outputs.append(y.flip(-1) if k else y)
    return (outputs[0] + outputs[1]).transpose(1, 2)


def unfused_cross(
    x: Tensor, rows: Tensor, A: Tensor, dt_weight: Tensor, bias: Tensor, D: Tensor, z: None, grid: tuple[int, int],
    scan: Callable[..., Any] = selective_scan,
) -> Tensor:  # fmt: skip
    """SS2D as its authors compose it: four copies of the map, grouped scan, merge."""
    height, width = grid
    rank, states = dt_weight.shape[-1], A.shape[-1]

    def cross(tokens: Tensor) -> Tensor:
        row = tokens.transpose(1, 2)
        column = row.unflatten(2, grid).transpose(2, 3).flatten(2)
        return torch.stack([row, column, row.flip(-1), column.flip(-1)], 1)

    low = torch.stack([cross(rows[:, :, k])[:, k] for k in range(4)], 1)
    low, B, C = low.split([rank, states, states], 2)
    delta = torch.einsum("bkrl,kdr->bkdl", low, dt_weight.to(low.dtype))
    y = scan(cross(x).flatten(1, 2), delta.flatten(1, 2).contiguous(), A.flatten(0, 1), B.contiguous(),
             C.contiguous(), D.flatten(), None, bias.flatten(), True).unflatten(1, (4, -1))  # fmt: skip
    y = y[:, :2] + y[:, 2:].flip(-1)
    column = y[:, 1].unflatten(2, (width, height)).transpose(2, 3).flatten(2)
    return (y[:, 0] + column).transpose(1, 2)
