"""Launcher of the residual norm in Triton: ``kernels/norm/triton_norm.py``."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backends import Unsupported
from ..runtime import triton_backend as backend
from ..runtime.call import empty
from .call import NormCall

MOST_CHANNELS = 16384
"""A row is held by one program."""
PROGRAMS = 512
"""Programs of the backward pass, each with its own sums of the parameters' gradients."""


def _tile(channels: int) -> dict[str, int]:
    """Rows and channels of a program, and its warps: about 2048 values."""
    if channels > MOST_CHANNELS:
        raise Unsupported(f"{channels} channels; at most {MOST_CHANNELS}")
    block_d = backend.power_of_two(channels)
    block_m = max(1, min(16, 2048 // block_d))
    return {"BLOCK_M": block_m, "BLOCK_D": block_d, "warps": max(4, min(16, block_d // 512))}


def add_norm(call: NormCall) -> tuple[Tensor, Tensor]:
    """`vimzoo.ops.add_norm`."""
    x, contiguous = call.x, backend.contiguous
    modules = backend.require(x, call.residual)
    tile = _tile(call.channels)
    out, stream = x.new_empty(x.shape), x.new_empty(x.shape, dtype=call.stream_dtype)
    if x.numel():
        backend.launch(
            modules["norm"].norm_forward, (-(-call.rows // tile["BLOCK_M"]),), x.device, x.contiguous(),
            contiguous(call.residual), call.weight.contiguous(), contiguous(call.bias), out, stream, call.rows,
            call.channels, call.eps, RMS=call.rms, **tile,
        )  # fmt: skip
    return out, stream


def add_norm_backward(
    call: NormCall, grad: Tensor, grad_stream: Tensor | None, stream: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of `add_norm`; its statistics are computed again from the stream."""
    modules = backend.require(grad, grad_stream, stream)
    x, residual, bias, rows, channels = call.x, call.residual, call.bias, call.rows, call.channels
    tile = _tile(channels)
    dx = x.new_empty(x.shape)
    d_residual = None if residual is None else residual.new_empty(residual.shape)
    programs = max(1, min(PROGRAMS, -(-rows // tile["BLOCK_M"])))
    per_program = -(-rows // (programs * tile["BLOCK_M"])) * tile["BLOCK_M"]
    d_weight, d_bias = (x.new_zeros((programs, channels), dtype=torch.float32) for _ in range(2))
    if rows:
        backend.launch(
            modules["norm"].norm_backward, (programs,), x.device, grad.contiguous(), backend.contiguous(grad_stream),
            stream.contiguous(), call.weight.contiguous(), dx, d_residual, d_weight, d_bias, rows, channels,
            per_program, call.eps, RMS=call.rms, **tile,
        )  # fmt: skip
    bias_gradient = empty(x) if bias is None else d_bias.sum(0).to(bias.dtype)
    d_residual = empty(x) if d_residual is None else d_residual
    return dx, d_residual, d_weight.sum(0).to(call.weight.dtype), bias_gradient
