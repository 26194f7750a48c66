"""Launcher of the causal convolution in Triton: ``kernels/causal_conv1d/triton_conv.py``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..backends import Unsupported
from ..runtime import triton_backend as backend
from ..runtime.call import empty
from ..runtime.strides import strides_of
from .call import ConvCall

MOST_TAPS = 16
"""The convolution is unrolled over its taps."""
MOST_DIRECTIONS = 8


def _require(call: ConvCall, *gradients: Tensor) -> dict[str, Any]:
    modules = backend.require(*gradients, call.x)
    if call.taps > MOST_TAPS or not 0 < call.directions <= MOST_DIRECTIONS:
        raise Unsupported(
            f"{call.taps} taps in {call.directions} directions; at most {MOST_TAPS} in {MOST_DIRECTIONS}"
        )
    return modules


def _tile(x: Tensor, directions: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and constants: a tile of about 2048 outputs."""
    batch, tokens, channels = x.shape
    k_pad = backend.power_of_two(directions)
    block_d = min(64, backend.power_of_two(channels))
    block_l = max(1, min(2048 // (k_pad * block_d), backend.power_of_two(tokens)))
    grid = (batch * -(-tokens // block_l), -(-channels // block_d))
    return grid, {"BLOCK_L": block_l, "BLOCK_D": block_d, "warps": 4}


def _bits(reverse: list[bool]) -> int:
    return sum(int(backward) << k for k, backward in enumerate(reverse))


def causal_conv1d(call: ConvCall) -> Tensor:
    """`vimzoo.ops.causal_conv1d`: ``(B, L, K, D)``, K first in memory."""
    modules = _require(call)
    x, (batch, tokens, channels) = call.x, call.x.shape
    out = call.new_output()
    if out.numel():
        grid, constants = _tile(x, call.directions)
        backend.launch(
            modules["conv"].conv_forward, grid, x.device, x, call.weight.contiguous(), backend.contiguous(call.bias),
            out, *x.stride(), tokens, channels, batch, _bits(call.reverse), K=call.directions,
            K_PAD=backend.power_of_two(call.directions), W=call.taps, SILU=call.activation == "silu", **constants,
        )  # fmt: skip
    return out


def causal_conv1d_backward(call: ConvCall, grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients of `causal_conv1d`: first of the filters, which leaves the gradient before SiLU, then of x."""
    modules = _require(call, grad)
    x, bias, directions, taps = call.x, call.bias, call.directions, call.taps
    batch, tokens, channels = x.shape
    if not grad.numel():
        return call.zeros()
    f32: dict[str, Any] = {"dtype": torch.float32}
    d_pre = x.new_empty((directions, batch, tokens, channels), **f32)
    dx = x.new_empty(x.shape)
    grid, constants = _tile(x, directions)
    parts = (grid[0], directions, channels)
    d_weight = x.new_empty((*parts, taps), **f32)
    d_bias = None if bias is None else x.new_empty(parts, **f32)
    dense, reverse = call.weight.contiguous(), _bits(call.reverse)
    backend.launch(
        modules["conv"].conv_backward_weight, grid, x.device, grad, x, dense, backend.contiguous(bias), d_pre,
        d_weight, d_bias, strides_of(grad, "blkd"), *x.stride(), tokens, channels, batch, reverse, K=directions,
        K_PAD=backend.power_of_two(directions), W=taps, SILU=call.activation == "silu", **constants,
    )  # fmt: skip
    grid, constants = _tile(x, 1)
    backend.launch(
        modules["conv"].conv_backward_input, grid, x.device, d_pre, dense, dx, tokens, channels, batch, reverse,
        K=directions, W=taps, **constants,
    )  # fmt: skip
    bias_gradient = empty(x) if bias is None or d_bias is None else d_bias.sum(0).to(bias.dtype)
    return dx, d_weight.sum(0).to(call.weight.dtype), bias_gradient
