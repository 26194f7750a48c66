"""Launcher of the residual norm in C: ``kernels/norm/add_norm.c``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..backends import Unsupported
from ..runtime import native, threads
from ..runtime.abi import DTYPES, address
from ..runtime.call import empty
from .call import NormCall


def _fields(call: NormCall, x: Tensor) -> tuple[dict[str, Any], list[Any]]:
    """The fields that forward and backward share, and the objects that must stay alive while C reads them."""
    weight, bias = native.float_parameter(call.weight), native.float_parameter(call.bias)
    residual = call.residual
    fields = dict(
        rows=call.rows, channels=call.channels, rms=int(call.rms), threads=threads.for_work(0.5 * x.numel()),
        row_groups=max(1, min(call.rows, 32)), x=address(x), x_dtype=DTYPES[x.dtype],
        residual_dtype=0 if residual is None else DTYPES[residual.dtype],
        weight=address(weight), bias=address(bias),
        eps=call.eps,
    )  # fmt: skip
    return fields, [x, weight, bias]


def add_norm(call: NormCall) -> tuple[Tensor, Tensor]:
    """`vimzoo.ops.add_norm`."""
    library = native.require(call.x, call.residual)
    x, residual = call.x.contiguous(), None if call.residual is None else call.residual.contiguous()
    out = torch.empty_like(x)
    stream = torch.empty(x.shape, dtype=call.stream_dtype)
    if x.numel():
        fields, alive = _fields(call, x)
        library.add_norm_forward(native.AddNormArgs(
            **fields, residual=address(residual), out=address(out), kept=address(stream),
            kept_dtype=DTYPES[stream.dtype],
        ))  # fmt: skip
        del alive
    return out, stream


def add_norm_backward(
    call: NormCall, grad: Tensor, grad_stream: Tensor | None, stream: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of `add_norm`; its statistics are computed again from the stream."""
    library = native.require(grad, stream, grad_stream)
    x, residual, bias = call.x, call.residual, call.bias
    if stream.dtype != torch.float32 and x.dtype != stream.dtype:
        raise Unsupported(f"a {stream.dtype} stream under {x.dtype} input")
    grad, stream = grad.contiguous(), stream.contiguous()
    grad_stream = None if grad_stream is None else grad_stream.contiguous()
    dx = torch.empty(x.shape, dtype=x.dtype)
    dresidual = None if residual is None else torch.empty(x.shape, dtype=residual.dtype)
    fields, alive = _fields(call, x)
    dweight, dbias = (torch.zeros(fields["row_groups"], call.channels, dtype=torch.float32) for _ in range(2))
    if x.numel():
        library.add_norm_backward(native.AddNormArgs(
            **fields, dout=address(grad), dkept=address(grad_stream), kept=address(stream),
            kept_dtype=DTYPES[stream.dtype], dx=address(dx), dresidual=address(dresidual),
            dweight=address(dweight), dbias=address(dbias),
        ))  # fmt: skip
        del alive
    bias_gradient = empty(x) if bias is None else dbias.sum(0).to(bias.dtype)
    dresidual = empty(x) if dresidual is None else dresidual
    return dx, dresidual, dweight.sum(0).to(call.weight.dtype), bias_gradient
