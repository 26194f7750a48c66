"""Residual addition and normalisation in one pass: the step between two state-space mixers."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..runtime.contract import FLOATING, Contract, Given, exactly, like
from ..runtime.derivatives import Derivative, register
from ..runtime.flops import flop_formula
from ..runtime.library import (
    FLAG,
    KERNELS,
    LIBRARY,
    NAME,
    NUMBER,
    autocast_activations,
    check_tensors,
    check_types,
    fake_gradients,
    implement,
    is_inference,
)
from .call import NormCall

_INPUTS = (
    "Tensor x, Tensor? residual, Tensor weight, Tensor? bias, float eps, bool rms, bool residual_in_fp32, "
    "str? backend=None"
)
LIBRARY.define(f"add_norm({_INPUTS}) -> (Tensor, Tensor)")
LIBRARY.define(
    f"add_norm_backward(Tensor grad, Tensor? grad_stream, Tensor stream, {_INPUTS}) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)


def add_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
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
        backend: name of the backend to use; chosen automatically if not given.

    Returns:
        the norm in x's dtype, and the stream.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument's rank, size, dtype or value does not fit.
        vimzoo.ops.BackendError: a forced backend cannot run it.
    """
    if not torch.jit.is_scripting():
        check_tensors(("residual", "bias"), x=x, residual=residual, weight=weight, bias=bias)
        _check_types(eps, rms, residual_in_fp32, backend)
        if is_inference(x, residual, weight, bias):
            return KERNELS["add_norm"](x, residual, weight, bias, eps, rms, residual_in_fp32, backend)
    return torch.ops.vimzoo.add_norm(x, residual, weight, bias, eps, rms, residual_in_fp32, backend)


def _check_types(eps: float, rms: bool, residual_in_fp32: bool, backend: str | None) -> None:
    check_types(*NUMBER, eps=eps)
    check_types(*FLAG, rms=rms, residual_in_fp32=residual_in_fp32)
    check_types(*NAME, backend=backend)


def _check_settings(given: Given) -> None:
    if not given["eps"] > 0:
        raise ValueError(f"eps: expected a positive number, got {given['eps']}")


def _stream_dtype(given: Given) -> torch.dtype:
    return NormCall(*(given[name] for name in NormCall.names())).stream_dtype


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


def _fake(call: NormCall, *, backend: str | None) -> tuple[Tensor, Tensor]:
    x = call.x
    return x.new_empty(x.shape), x.new_empty(x.shape, dtype=call.stream_dtype)


def _stream_only(call: NormCall, grad_stream: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients where only the stream was used: it passes on to both summands."""
    residual = None if call.residual is None else grad_stream.to(call.residual.dtype)
    return grad_stream.to(call.x.dtype), residual, None, None


implement("add_norm", NormCall, CONTRACT, _fake)
implement("add_norm_backward", NormCall, BACKWARD_CONTRACT, fake_gradients)
register(
    Derivative(
        "add_norm",
        NormCall,
        reference.add_norm,
        outputs=2,
        saved=1,
        without_first=_stream_only,
    )
)
autocast_activations("add_norm", activations=(0,))


@flop_formula("add_norm")
def _flops(x_shape, *args, **kwargs) -> int:  # type: ignore
    """None: norms are left out of FLOP counts by convention, as in torch's counter."""
    return 0
