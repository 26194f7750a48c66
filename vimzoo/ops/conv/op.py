"""Depthwise causal convolution along a sequence, both directions in one pass."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..runtime import native, threads, triton_rows
from ..runtime.backends import Unsupported
from ..runtime.contract import FLOATING, Contract, Given, like
from ..runtime.derivatives import Derivative, register
from ..runtime.flops import flop_formula
from ..runtime.library import LIBRARY, autocast_activations, check_tensors, empty, gradients_of, implement
from ..scan import mamba_ssm_backend
from ..scan.along_paths import task_split

MOST_TAPS = 16
"""Taps that the native kernel takes; the same number in ``kernels/causal_conv1d/causal_conv1d.c``."""

LIBRARY.define(
    "causal_conv1d(Tensor x, Tensor weight, Tensor? bias, bool[] reverse, str? activation=None, str? backend=None) "
    "-> Tensor"
)
LIBRARY.define(
    "causal_conv1d_backward(Tensor grad, Tensor x, Tensor weight, Tensor? bias, bool[] reverse, "
    "str? activation=None, str? backend=None) -> (Tensor, Tensor, Tensor)"
)


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    reverse: Sequence[bool] = (False,),
    backend: str | None = None,
) -> Tensor:
    """K depthwise causal convolutions of one sequence, each forward or backward in time (Gu & Dao 2023, section 3.4).

    ``y[b, l, k, d] = act(bias[k, d] + sum_j weight[k, d, j] x[b, l - W + 1 + j, d])``, with ``l`` counted from the end
    where ``reverse[k]``: the convolution of the flipped sequence, read back in token order.

    Args:
        x: ``(B, L, D)``, channels last.
        weight: ``(K, D, W)``.
        bias: ``(K, D)`` or ``None``.
        activation: ``"silu"`` or ``None``.
        reverse: for each of K, whether it runs backward.
        backend: insist on a backend.

    Returns:
        ``(B, L, K, D)`` in x's dtype; in memory K comes first, so each direction is a dense matrix.

    Raises:
        TypeError: naming what is no tensor.
        ValueError: naming the argument that does not fit.
    """
    check_tensors(("bias",), x=x, weight=weight, bias=bias)
    return torch.ops.vimzoo.causal_conv1d(x, weight, bias, list(reverse), activation, backend)


def _check_settings(given: Given) -> None:
    weight, reverse, activation = given["weight"], given["reverse"], given["activation"]
    if 0 in weight.shape:
        raise ValueError(f"weight: expected (K, D, W), each at least 1, got shape {tuple(weight.shape)}")
    if len(reverse) != weight.shape[0]:
        raise ValueError(
            f"reverse: expected {weight.shape[0]} values, one per direction of weight, got {len(reverse)}"
        )
    if activation not in (None, "silu"):
        raise ValueError(f"activation: expected 'silu' or None, got {activation!r}")


_TENSORS = {"x": ("B L D", FLOATING), "weight": ("K D W", FLOATING), "bias": ("K D", FLOATING)}
CONTRACT = Contract("causal_conv1d", _TENSORS, rest=_check_settings)
BACKWARD_CONTRACT = Contract(
    "causal_conv1d_backward", _TENSORS | {"grad": ("B L K D", like("x"))}, rest=_check_settings
)


def _new_output(x: Tensor, directions: int) -> Tensor:
    batch, length, channels = x.shape
    return x.new_empty((directions, batch, length, channels)).permute(1, 2, 0, 3)


def _reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, reverse: list[bool], activation: str | None
) -> Tensor:
    if not x.numel():  # torch has no convolution of nothing
        return _new_output(x, len(reverse))
    y = reference.causal_conv1d(x, weight, bias, reverse, activation)
    return y.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)


def _reference_backward(grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
    if not grad.numel():
        return tuple(empty(grad) if t is None else t.new_zeros(t.shape) for t in args[:3])
    return gradients_of(reference.causal_conv1d, args, 3, grad)


def _fields(
    x: Tensor, weight: Tensor, bias: Tensor | None, reverse: list[bool], activation: str | None
) -> tuple:
    x = native.with_unit_last_stride(x)
    weight, bias = native.float_parameter(weight), native.float_parameter(bias)  # type: ignore[assignment]
    flags = (ctypes.c_int64 * len(reverse))(*reverse)
    work = 0.15 * x.shape[0] * x.shape[1] * weight.numel()
    fields = dict(
        batch=x.shape[0], length=x.shape[1], channels=x.shape[2], directions=len(reverse), taps=weight.shape[2],
        silu=int(activation == "silu"), dtype=native.DTYPES[x.dtype], threads=threads.for_work(work),
        x=native.address(x), x_b=x.stride(0), x_l=x.stride(1), weight=native.address(weight),
        bias=native.address(bias), reverse=ctypes.addressof(flags),
    )  # fmt: skip
    return fields, [x, weight, bias, flags]


def _require(*activations: Tensor, taps: int) -> Any:
    if taps > MOST_TAPS:
        raise Unsupported(f"{taps} taps; at most {MOST_TAPS}")
    return native.require(*activations)


def _native(x: Tensor, *args: Any) -> Tensor:
    library = _require(x, taps=args[0].shape[2])
    out = _new_output(x, args[0].shape[0])
    if out.numel():
        fields, alive = _fields(x, *args)
        library.causal_conv1d_forward(native.CausalConvArgs(**fields, out=native.address(out)))
        del alive
    return out


def _native_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *args: Any
) -> tuple[Tensor, ...]:
    library = _require(grad, x, taps=weight.shape[2])
    groups, _ = task_split(x.shape[0], x.shape[2])
    dx = torch.zeros(x.shape, dtype=torch.float32)
    dweight = torch.zeros((groups, *weight.shape), dtype=torch.float32)
    dbias = torch.zeros((groups, *weight.shape[:2]), dtype=torch.float32)
    if grad.numel():
        grad = native.with_unit_last_stride(grad)
        fields, alive = _fields(x, weight, bias, *args)
        library.causal_conv1d_backward(native.CausalConvArgs(
            **fields, batch_groups=groups, dy=native.address(grad), dy_b=grad.stride(0), dy_l=grad.stride(1),
            dy_k=grad.stride(2), dx=native.address(dx), dweight=native.address(dweight), dbias=native.address(dbias),
        ))  # fmt: skip
        del alive
    bias_gradient = empty(x) if bias is None else dbias.sum(0).to(bias.dtype)
    return dx.to(x.dtype), dweight.sum(0).to(weight.dtype), bias_gradient


_FORWARD: dict[str, Callable[..., Any]] = {
    "cpu": _native,
    "triton": triton_rows.causal_conv1d,
    "mamba_ssm": mamba_ssm_backend.causal_conv1d,
    "reference": _reference,
}
_BACKWARD: dict[str, Callable[..., Any]] = {
    "cpu": _native_backward,
    "triton": triton_rows.causal_conv1d_backward,
    "mamba_ssm": mamba_ssm_backend.causal_conv1d_backward,
    "reference": _reference_backward,
}
implement("causal_conv1d", _FORWARD, CONTRACT)
implement("causal_conv1d_backward", _BACKWARD, BACKWARD_CONTRACT)


@torch.library.register_fake("vimzoo::causal_conv1d")
def _(x, weight, bias, reverse, activation=None, backend=None):  # type: ignore
    CONTRACT.check(x, weight, bias, reverse, activation)
    return _new_output(x, weight.shape[0])


@torch.library.register_fake("vimzoo::causal_conv1d_backward")
def _(grad, x, weight, bias, reverse, activation=None, backend=None):  # type: ignore
    BACKWARD_CONTRACT.check(grad, x, weight, bias, reverse, activation)
    bias_gradient = empty(x) if bias is None else bias.new_empty(bias.shape)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), bias_gradient


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.settings = inputs[3:]


def _gradient(ctx: Any, grad: Tensor) -> tuple:
    x, weight, bias = ctx.saved_tensors  # asked for once, as gradient checkpointing wants it
    grads = torch.ops.vimzoo.causal_conv1d_backward(grad, x, weight, bias, *ctx.settings)
    return grads[0], grads[1], None if bias is None else grads[2], None, None, None


register(
    Derivative(
        "causal_conv1d", reference.causal_conv1d, tensors=3, outputs=1, saved=0, plain=_reference, save=_save,
        backward=_gradient,
    )
)  # fmt: skip
autocast_activations("causal_conv1d", activations=(0,))


@flop_formula("causal_conv1d")
def _flops(x_shape, weight_shape, *args, **kwargs) -> int:  # type: ignore
    """Two per tap and element."""
    return 2 * x_shape[0] * x_shape[1] * weight_shape[0] * weight_shape[1] * weight_shape[2]
