"""The ``reference`` backend: the definitions of `vimzoo.ops.reference` as operators, on every device."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from .. import reference
from ..conv.call import ConvCall
from ..norm.call import NormCall
from ..runtime.call import empty
from ..runtime.library import gradients_of
from ..scan.call import CarriedCall, ScanCall, SelectiveCall
from . import ANY, Backend, functions_of, register


def scan_paths(call: ScanCall) -> tuple[Tensor, Tensor]:
    """`reference.scan_paths`, and no states, which its backward pass does not need."""
    return reference.scan_paths(call).contiguous(), empty(call.x)


def scan_paths_backward(call: ScanCall, grad: Tensor, states: Tensor) -> tuple[Tensor, ...]:
    """Gradients of `scan_paths`."""
    return gradients_of(reference.scan_paths, call, grad)


def scan_carried(call: CarriedCall) -> tuple[Tensor, Tensor, Tensor]:
    """`reference.scan_carried`, and no states for the backward pass; no output is the initial state itself."""
    y, last = reference.scan_carried(call)
    return y.contiguous(), (last.clone() if last is call.initial_state else last).contiguous(), empty(call.x)


def scan_carried_backward(
    call: CarriedCall, grad: Tensor, grad_last: Tensor | None, states: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of `scan_carried`."""
    if grad_last is None:
        return gradients_of(lambda call: reference.scan_carried(call)[0], call, grad)
    return gradients_of(reference.scan_carried, call, (grad, grad_last))


def selective_scan(call: SelectiveCall) -> tuple[Tensor, Tensor, Tensor]:
    """`reference.selective_scan`, and no states."""
    out, last_state = reference.selective_scan(call)
    return out.contiguous(), last_state.contiguous().to(call.state_dtype), empty(call.u)


def selective_scan_backward(
    call: SelectiveCall, grad: Tensor, grad_last: Tensor | None, states: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of `selective_scan`."""
    if grad_last is None:
        return gradients_of(lambda call: reference.selective_scan(call)[0], call, grad)
    return gradients_of(reference.selective_scan, call, (grad, grad_last))


def causal_conv1d(call: ConvCall) -> Tensor:
    """`reference.causal_conv1d` in the operator's memory order."""
    if not call.x.numel():  # torch has no convolution of nothing
        return call.new_output()
    y = reference.causal_conv1d(call)
    return y.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)


def causal_conv1d_backward(call: ConvCall, grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients of `causal_conv1d`."""
    return gradients_of(reference.causal_conv1d, call, grad) if grad.numel() else call.zeros()


def add_norm(call: NormCall) -> tuple[Tensor, Tensor]:
    """`reference.add_norm`; the stream is a copy where it would be the input, which an operator may not return."""
    normed, stream = reference.add_norm(call)
    return normed.contiguous(), (stream.clone() if stream is call.x else stream).contiguous()


def add_norm_backward(
    call: NormCall, grad: Tensor, grad_stream: Tensor | None, stream: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of `add_norm`."""
    grad_stream = torch.zeros_like(stream) if grad_stream is None else grad_stream
    return gradients_of(reference.add_norm, call, (grad, grad_stream))


register(
    Backend(
        name="reference",
        devices={ANY: 100},
        ops=functions_of(sys.modules[__name__]),
        load=lambda: (True, ""),
        description="plain PyTorch, runs everywhere",
    )
)  # fmt: skip
