"""Depthwise causal convolution along a sequence, both directions in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import reference
from ..runtime.contract import FLOATING, Contract, Given, like
from ..runtime.derivatives import Derivative, register
from ..runtime.flops import flop_formula
from ..runtime.library import (
    FLAG,
    KERNELS,
    LIBRARY,
    NAME,
    autocast_activations,
    check_tensors,
    check_types,
    fake_gradients,
    implement,
    is_inference,
)
from .call import ConvCall

_INPUTS = "Tensor x, Tensor weight, Tensor? bias, bool[] reverse, str? activation=None, str? backend=None"
LIBRARY.define(f"causal_conv1d({_INPUTS}) -> Tensor")
LIBRARY.define(f"causal_conv1d_backward(Tensor grad, {_INPUTS}) -> (Tensor, Tensor, Tensor)")


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    reverse: list[bool] | None = None,
    backend: str | None = None,
) -> Tensor:
    """K depthwise causal convolutions of one sequence, each forward or backward in time (Gu & Dao 2023, section 3.4).

    ``y[b, l, k, d] = act(bias[k, d] + sum_j weight[k, d, j] x[b, l - W + 1 + j, d])``, with ``l`` counted from the end
    where ``reverse[k]``: the convolution of the flipped sequence, read back in token order. It can be scripted, and
    traced by ``torch.jit.trace`` for sequences of every length.

    Args:
        x: ``(B, L, D)``, channels last.
        weight: ``(K, D, W)``.
        bias: ``(K, D)`` or ``None``.
        activation: ``"silu"`` or ``None``.
        reverse: for each of the K filters (a list, or eagerly any sequence) whether it runs backward; by default one
            filter that runs forward.
        backend: name of the backend to use; chosen automatically if not given.

    Returns:
        ``(B, L, K, D)`` in x's dtype; in memory K comes first, so each direction is a dense matrix.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument's rank, size, dtype or value does not fit.
        vimzoo.ops.BackendError: a forced backend cannot run it.
    """
    if not torch.jit.is_scripting():
        _check_types(reverse, activation, backend)
    backward = [False] if reverse is None else list(reverse)
    if not torch.jit.is_scripting():
        check_tensors(("bias",), x=x, weight=weight, bias=bias)
        if torch.jit.is_tracing() and backend is None:
            return _traced_conv(x, weight, bias, [int(k) for k in backward], activation == "silu")
        if is_inference(x, weight, bias):
            return KERNELS["causal_conv1d"](x, weight, bias, backward, activation, backend)
    return torch.ops.vimzoo.causal_conv1d(x, weight, bias, backward, activation, backend)


def _check_types(reverse: Sequence[bool] | None, activation: str | None, backend: str | None) -> None:
    check_types("a sequence of True and False", (Sequence, type(None)), reverse=reverse)
    for value in reverse or ():
        check_types(*FLAG, reverse=value)
    check_types(*NAME, activation=activation, backend=backend)


@torch.jit.script_if_tracing
def _traced_conv(x: Tensor, weight: Tensor, bias: Tensor | None, reverse: list[int], silu: bool) -> Tensor:
    """`causal_conv1d` in a graph recorded by ``torch.jit.trace``, which takes no list of truth values."""
    backward = [k != 0 for k in reverse]
    return torch.ops.vimzoo.causal_conv1d(x, weight, bias, backward, "silu" if silu else None, None)


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


def _fake(call: ConvCall, *, backend: str | None) -> Tensor:
    return call.new_output()


implement("causal_conv1d", ConvCall, CONTRACT, _fake)
implement("causal_conv1d_backward", ConvCall, BACKWARD_CONTRACT, fake_gradients)
register(Derivative("causal_conv1d", ConvCall, reference.causal_conv1d, outputs=1))
autocast_activations("causal_conv1d", activations=(0,))


@flop_formula("causal_conv1d")
def _flops(x_shape, weight_shape, *args, **kwargs) -> int:  # type: ignore
    """Two per tap and element."""
    return 2 * x_shape[0] * x_shape[1] * weight_shape[0] * weight_shape[1] * weight_shape[2]
