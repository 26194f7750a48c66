"""Launchers of the Triton kernels around the scan: `causal_conv1d` and `add_norm`, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..reference import residual_dtype
from ..scan.gpu_scans import strides_of
from . import triton_backend as backend
from .backends import Unsupported
from .library import empty

MOST_TAPS = 16
"""The convolution is unrolled over its taps."""
MOST_DIRECTIONS = 8
MOST_CHANNELS = 16384
"""A row of the norm is held by one program."""
NORM_PROGRAMS = 512
"""Programs of the norm's backward pass, each with its own sums of the parameters' gradients."""


def _conv_checks(weight: Tensor) -> None:
    directions, _, taps = weight.shape
    if taps > MOST_TAPS or not 0 < directions <= MOST_DIRECTIONS:
        raise Unsupported(f"{taps} taps in {directions} directions; at most {MOST_TAPS} in {MOST_DIRECTIONS}")


def _conv_tile(x: Tensor, directions: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and constants: a tile of about 2048 outputs."""
    batch, tokens, channels = x.shape
    k_pad = backend.power_of_two(directions)
    block_d = min(64, backend.power_of_two(channels))
    block_l = max(1, min(2048 // (k_pad * block_d), backend.power_of_two(tokens)))
    grid = (batch * -(-tokens // block_l), -(-channels // block_d))
    return grid, {"BLOCK_L": block_l, "BLOCK_D": block_d, "warps": 4}


def _bits(reverse: list[bool]) -> int:
    return sum(int(backward) << k for k, backward in enumerate(reverse))


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, reverse: list[bool], activation: str | None
) -> Tensor:
    """`vimzoo.ops.causal_conv1d`: ``(B, L, K, D)``, K first in memory."""
    modules = backend.require(x)
    _conv_checks(weight)
    (batch, tokens, channels), (directions, _, taps) = x.shape, weight.shape
    out = x.new_empty((directions, batch, tokens, channels))
    if out.numel():
        grid, constants = _conv_tile(x, directions)
        backend.launch(
            modules["conv"].conv_forward, grid, x.device, x, weight.contiguous(), _contiguous(bias), out, *x.stride(),
            tokens, channels, batch, _bits(reverse), K=directions, K_PAD=backend.power_of_two(directions), W=taps,
            SILU=activation == "silu", **constants,
        )  # fmt: skip
    return out.permute(1, 2, 0, 3)


def causal_conv1d_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, reverse: list[bool], activation: str | None
) -> tuple[Tensor, ...]:
    """Gradients of `causal_conv1d`: of x, weight and bias."""
    modules = backend.require(grad, x)
    _conv_checks(weight)
    (batch, tokens, channels), (directions, _, taps) = x.shape, weight.shape
    if not grad.numel():
        bias_gradient = empty(x) if bias is None else torch.zeros_like(bias)
        return x.new_zeros(x.shape), weight.new_zeros(weight.shape), bias_gradient
    f32: dict[str, Any] = {"dtype": torch.float32}
    d_pre = x.new_empty((directions, batch, tokens, channels), **f32)
    dx = x.new_empty(x.shape)
    grid, constants = _conv_tile(x, directions)
    parts = (grid[0], directions, channels)
    d_weight = x.new_empty((*parts, taps), **f32)
    d_bias = None if bias is None else x.new_empty(parts, **f32)
    dense = weight.contiguous()
    backend.launch(
        modules["conv"].conv_backward_weight, grid, x.device,
        grad, x, dense, _contiguous(bias), d_pre, d_weight, d_bias, strides_of(grad, "blkd"), *x.stride(),
        tokens, channels, batch, _bits(reverse), K=directions,
        K_PAD=backend.power_of_two(directions), W=taps, SILU=activation == "silu", **constants,
    )  # fmt: skip
    grid, constants = _conv_tile(x, 1)
    backend.launch(
        modules["conv"].conv_backward_input, grid, x.device, d_pre, dense, dx, tokens, channels, batch, _bits(reverse),
        K=directions, W=taps, **constants,
    )  # fmt: skip
    bias_gradient = empty(x) if bias is None or d_bias is None else d_bias.sum(0).to(bias.dtype)
    return dx, d_weight.sum(0).to(weight.dtype), bias_gradient


def _contiguous(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.contiguous()


def _norm_tile(channels: int) -> dict[str, int]:
    """Rows and channels of a program, and its warps: about 2048 values."""
    if channels > MOST_CHANNELS:
        raise Unsupported(f"{channels} channels; at most {MOST_CHANNELS}")
    block_d = backend.power_of_two(channels)
    block_m = max(1, min(16, 2048 // block_d))
    return {"BLOCK_M": block_m, "BLOCK_D": block_d, "warps": max(4, min(16, block_d // 512))}


def add_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, rms: bool, wide: bool
) -> tuple[Tensor, Tensor]:
    """`vimzoo.ops.add_norm`: the norm in x's dtype, and the stream."""
    modules = backend.require(x, residual)
    channels = x.shape[-1]
    tile = _norm_tile(channels)
    out = x.new_empty(x.shape)
    stream = x.new_empty(x.shape, dtype=residual_dtype(x, residual, wide))
    if x.numel():
        rows = x.numel() // channels
        backend.launch(
            modules["norm"].norm_forward, (-(-rows // tile["BLOCK_M"]),), x.device,
            x.contiguous(), _contiguous(residual), weight.contiguous(), _contiguous(bias), out, stream,
            rows, channels, eps, RMS=rms, **tile,
        )  # fmt: skip
    return out, stream


def add_norm_backward(
    grad: Tensor, grad_stream: Tensor | None, stream: Tensor, x: Tensor, residual: Tensor | None, weight: Tensor,
    bias: Tensor | None, eps: float, rms: bool, wide: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of `add_norm`: of x, residual, weight and bias; statistics come from the stream as it was kept."""
    modules = backend.require(grad, grad_stream, stream)
    channels = x.shape[-1]
    tile = _norm_tile(channels)
    dx = x.new_empty(x.shape)
    d_residual = empty(x) if residual is None else residual.new_empty(residual.shape)
    rows = x.numel() // channels if x.numel() else 0
    programs = max(1, min(NORM_PROGRAMS, -(-rows // tile["BLOCK_M"])))
    per_program = -(-rows // (programs * tile["BLOCK_M"])) * tile["BLOCK_M"]
    d_weight, d_bias = (x.new_zeros((programs, channels), dtype=torch.float32) for _ in range(2))
    if rows:
        backend.launch(
            modules["norm"].norm_backward, (programs,), x.device, grad.contiguous(), _contiguous(grad_stream),
            stream.contiguous(), weight.contiguous(), dx, None if residual is None else d_residual, d_weight, d_bias,
            rows, channels, per_program, eps, RMS=rms, **tile,
        )  # fmt: skip
    bias_gradient = empty(x) if bias is None else d_bias.sum(0).to(bias.dtype)
    return dx, d_residual, d_weight.sum(0).to(weight.dtype), bias_gradient
