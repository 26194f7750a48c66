"""Residual addition and normalisation in one pass: the step between two state-space mixers."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..reference import residual_dtype
from ..runtime import native, threads, triton_rows
from ..runtime.backends import Unsupported
from ..runtime.contract import FLOATING, Contract, Given, exactly, like
from ..runtime.derivatives import Derivative, register
from ..runtime.flops import flop_formula
from ..runtime.library import LIBRARY, autocast_activations, check_tensors, empty, gradients_of, implement

LIBRARY.define(
    "add_norm(Tensor x, Tensor? residual, Tensor weight, Tensor? bias, float eps, bool rms, bool residual_in_fp32, "
    "str? backend=None) -> (Tensor, Tensor)"
)
LIBRARY.define(
    "add_norm_backward(Tensor grad, Tensor? grad_stream, Tensor stream, Tensor x, Tensor? residual, Tensor weight, "
    "Tensor? bias, float eps, bool rms, bool residual_in_fp32, str? backend=None) -> (Tensor, Tensor, Tensor, Tensor)"
)


def add_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    rms: bool = True,
    residual_in_fp32: bool = True,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """``stream = x + residual`` and its norm over the last axis, in one pass.

    RMSNorm (Zhang & Sennrich 2019): ``stream / sqrt(mean(stream^2) + eps) * weight (+ bias)``; with ``rms=False``
    LayerNorm (Ba et al. 2016). Both are computed in float32 (float64 for float64).

    Args:
        x: ``(..., D)``, what a mixer returned.
        residual: ``(..., D)``, the stream so far, or ``None`` before the first layer.
        weight, bias: ``(D,)``.
        eps: added to the variance.
        rms: RMSNorm rather than LayerNorm.
        residual_in_fp32: keep the stream in float32 though x is bfloat16 or float16, as Vim does.
        backend: insist on a backend.

    Returns:
        the norm in x's dtype, and the stream.

    Raises:
        TypeError: naming what is no tensor.
        ValueError: naming the argument that does not fit.
    """
    check_tensors(("residual", "bias"), x=x, residual=residual, weight=weight, bias=bias)
    return torch.ops.vimzoo.add_norm(x, residual, weight, bias, eps, rms, residual_in_fp32, backend)


def _check_settings(given: Given) -> None:
    if not given["eps"] > 0:
        raise ValueError(f"eps: expected a positive number, got {given['eps']}")


def _stream_dtype(given: Given) -> torch.dtype:
    return residual_dtype(given["x"], given["residual"], given["residual_in_fp32"])


_TENSORS = {
    "x": ("... D", FLOATING),
    "residual": ("... D", FLOATING),
    "weight": ("D", FLOATING),
    "bias": ("D", FLOATING),
}
CONTRACT = Contract("add_norm", _TENSORS, rest=_check_settings)
BACKWARD_CONTRACT = Contract(
    "add_norm_backward",
    _TENSORS
    | {
        "grad": ("... D", like("x")),
        "stream": ("... D", exactly(_stream_dtype)),
        "grad_stream": ("... D", like("stream")),
    },
    rest=_check_settings,
)


def _reference(x: Tensor, residual: Tensor | None, *args: Any) -> tuple[Tensor, Tensor]:
    normed, stream = reference.add_norm(x, residual, *args)
    if residual is None and stream is x:
        stream = x.clone()  # an op's output may not be its input
    return normed.contiguous(), stream.contiguous()


def _reference_backward(
    grad: Tensor, grad_stream: Tensor | None, stream: Tensor, *args: Any
) -> tuple[Tensor, ...]:
    grad_stream = torch.zeros_like(stream) if grad_stream is None else grad_stream
    return gradients_of(reference.add_norm, args, 4, (grad, grad_stream))


def _fields(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, rms: bool) -> tuple[dict, list]:
    weight, bias = native.float_parameter(weight), native.float_parameter(bias)  # type: ignore[assignment]
    rows = x.numel() // x.shape[-1] if x.numel() else 0
    fields = dict(
        rows=rows, channels=x.shape[-1], rms=int(rms), threads=threads.for_work(0.5 * x.numel()),
        row_groups=max(1, min(rows, 32)), x_dtype=native.DTYPES[x.dtype], x=native.address(x),
        weight=native.address(weight), bias=native.address(bias),
        eps_bits=struct.unpack("<q", struct.pack("<d", eps))[0],
    )  # fmt: skip
    return fields, [weight, bias]


def _native(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, rms: bool, wide: bool
) -> tuple[Tensor, Tensor]:
    library = native.require(x, residual)
    x, residual = x.contiguous(), None if residual is None else residual.contiguous()
    out = torch.empty_like(x)
    stream = torch.empty(x.shape, dtype=residual_dtype(x, residual, wide))
    if x.numel():
        fields, alive = _fields(x, weight, bias, eps, rms)
        library.add_norm_forward(native.AddNormArgs(
            **fields, residual=native.address(residual), out=native.address(out), kept=native.address(stream),
            residual_dtype=native.DTYPES[residual.dtype] if residual is not None else 0,
            kept_dtype=native.DTYPES[stream.dtype],
        ))  # fmt: skip
        del alive
    return out, stream


def _native_backward(
    grad: Tensor, grad_stream: Tensor | None, stream: Tensor, x: Tensor, residual: Tensor | None, weight: Tensor,
    bias: Tensor | None, eps: float, rms: bool, wide: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    library = native.require(grad, stream, grad_stream)
    if stream.dtype != torch.float32 and x.dtype != stream.dtype:
        raise Unsupported(f"a {stream.dtype} stream under {x.dtype} input")
    grad, stream = grad.contiguous(), stream.contiguous()
    grad_stream = None if grad_stream is None else grad_stream.contiguous()
    dx = torch.empty(x.shape, dtype=x.dtype)
    dresidual = empty(x) if residual is None else torch.empty(x.shape, dtype=residual.dtype)
    fields, alive = _fields(x, weight, bias, eps, rms)
    groups = fields["row_groups"]
    dweight, dbias = (torch.zeros(groups, x.shape[-1], dtype=torch.float32) for _ in range(2))
    if x.numel():
        library.add_norm_backward(native.AddNormArgs(
            **fields, dout=native.address(grad), dkept=native.address(grad_stream), kept=native.address(stream),
            kept_dtype=native.DTYPES[stream.dtype], dx=native.address(dx),
            dresidual=native.address(dresidual) if residual is not None else 0,
            residual_dtype=native.DTYPES[residual.dtype] if residual is not None else 0,
            dweight=native.address(dweight), dbias=native.address(dbias),
        ))  # fmt: skip
        del alive
    bias_gradient = empty(x) if bias is None else dbias.sum(0).to(bias.dtype)
    return dx, dresidual, dweight.sum(0).to(weight.dtype), bias_gradient


_FORWARD: dict[str, Callable[..., Any]] = {
    "cpu": _native,
    "triton": triton_rows.add_norm,
    "reference": _reference,
}
_BACKWARD: dict[str, Callable[..., Any]] = {
    "cpu": _native_backward,
    "triton": triton_rows.add_norm_backward,
    "reference": _reference_backward,
}
implement("add_norm", _FORWARD, CONTRACT)
implement("add_norm_backward", _BACKWARD, BACKWARD_CONTRACT)


@torch.library.register_fake("vimzoo::add_norm")
def _(x, residual, weight, bias, eps, rms, residual_in_fp32, backend=None):  # type: ignore
    CONTRACT.check(x, residual, weight, bias, eps, rms, residual_in_fp32)
    return x.new_empty(x.shape), x.new_empty(x.shape, dtype=residual_dtype(x, residual, residual_in_fp32))


@torch.library.register_fake("vimzoo::add_norm_backward")
def _(grad, grad_stream, stream, x, residual, weight, bias, eps, rms, residual_in_fp32, backend=None):  # type: ignore
    BACKWARD_CONTRACT.check(grad, grad_stream, stream, x, residual, weight, bias, eps, rms, residual_in_fp32)

    def like(tensor: Tensor | None) -> Tensor:
        return empty(x) if tensor is None else tensor.new_empty(tensor.shape)

    return like(x), like(residual), like(weight), like(bias)


def _save(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(output[1], *inputs[:4])
    ctx.settings = inputs[4:]
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, grad: Tensor | None, grad_stream: Tensor | None) -> tuple:
    stream, x, residual, weight, bias = ctx.saved_tensors
    if grad is None:  # only the stream was used
        to_residual = None if residual is None or grad_stream is None else grad_stream.to(residual.dtype)
        return None if grad_stream is None else grad_stream.to(x.dtype), to_residual, *(None,) * 6
    grads = torch.ops.vimzoo.add_norm_backward(
        grad, grad_stream, stream, x, residual, weight, bias, *ctx.settings
    )
    inputs = (x, residual, weight, bias)
    return (*(None if t is None else g for t, g in zip(inputs, grads, strict=True)), *(None,) * 4)


register(
    Derivative(
        "add_norm", reference.add_norm, tensors=4, outputs=2, saved=1, plain=_reference, save=_save,
        backward=_gradient,
    )
)  # fmt: skip
autocast_activations("add_norm", activations=(0,))


@flop_formula("add_norm")
def _flops(x_shape, *args, **kwargs) -> int:  # type: ignore
    """None: norms are left out of FLOP counts by convention, as in torch's counter."""
    return 0
