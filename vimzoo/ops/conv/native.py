"""Launcher of the causal convolution in C: ``kernels/causal_conv1d/causal_conv1d.c``."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..backends import Unsupported
from ..runtime import native, threads
from ..runtime.abi import CONSTANTS, DTYPES, address
from ..runtime.call import empty
from .call import ConvCall

MOST_TAPS = CONSTANTS["MOST_TAPS"]
"""The longest filter."""


def _require(call: ConvCall, *gradients: Tensor) -> SimpleNamespace:
    if call.taps > MOST_TAPS:
        raise Unsupported(f"{call.taps} taps; at most {MOST_TAPS}")
    return native.require(*gradients, call.x)


def _fields(call: ConvCall) -> tuple[dict[str, int], list[Any]]:
    """The fields that forward and backward share, and the objects that must stay alive while C reads them."""
    x = native.with_unit_last_stride(call.x)
    weight, bias = native.float_parameter(call.weight), native.float_parameter(call.bias)
    directions, channels, taps = call.weight.shape
    reverse = (ctypes.c_int64 * directions)(*call.reverse)
    work = 0.15 * x.shape[0] * x.shape[1] * call.weight.numel()
    fields = dict(
        batch=x.shape[0], length=x.shape[1], channels=channels, directions=directions, taps=taps,
        silu=int(call.activation == "silu"), dtype=DTYPES[x.dtype], threads=threads.for_work(work),
        x=address(x), x_b=x.stride(0), x_l=x.stride(1), weight=address(weight),
        bias=address(bias), reverse=ctypes.addressof(reverse),
    )  # fmt: skip
    return fields, [x, weight, bias, reverse]


def causal_conv1d(call: ConvCall) -> Tensor:
    """`vimzoo.ops.causal_conv1d`."""
    library = _require(call)
    out = call.new_output()
    if out.numel():
        fields, alive = _fields(call)
        library.causal_conv1d_forward(native.CausalConvArgs(**fields, out=address(out)))
        del alive
    return out


def causal_conv1d_backward(call: ConvCall, grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients of `causal_conv1d`."""
    library = _require(call, grad)
    x, weight, bias = call.x, call.weight, call.bias
    groups, _ = native.task_split(x.shape[0], x.shape[2])
    dx = torch.zeros(x.shape, dtype=torch.float32)
    dweight = torch.zeros((groups, *weight.shape), dtype=torch.float32)
    dbias = torch.zeros((groups, *weight.shape[:2]), dtype=torch.float32)
    if grad.numel():
        grad = native.with_unit_last_stride(grad)
        fields, alive = _fields(call)
        library.causal_conv1d_backward(native.CausalConvArgs(
            **fields, batch_groups=groups, dy=address(grad), dy_b=grad.stride(0), dy_l=grad.stride(1),
            dy_k=grad.stride(2), dx=address(dx), dweight=address(dweight), dbias=address(dbias),
        ))  # fmt: skip
        del alive
    bias_gradient = empty(x) if bias is None else dbias.sum(0).to(bias.dtype)
    return dx.to(x.dtype), dweight.sum(0).to(weight.dtype), bias_gradient
