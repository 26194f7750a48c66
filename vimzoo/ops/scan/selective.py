"""The selective scan with mamba_ssm's signature: what its ``selective_scan_fn`` computes, on any machine."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import backends, reference
from ..runtime.contract import FLOATING, NUMBERS, Contract, Given, exactly, like
from ..runtime.derivatives import Derivative, register
from ..runtime.flops import flop_formula
from ..runtime.library import (
    FLAG,
    LIBRARY,
    NAME,
    autocast_activations,
    check_tensors,
    check_types,
    fake_gradients,
    implement,
)
from .call import SelectiveCall, check_states

_INPUTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "bool delta_softplus"
)
LIBRARY.define(f"selective_scan({_INPUTS}, bool save_states, str? backend=None) -> (Tensor, Tensor, Tensor)")
LIBRARY.define(
    f"selective_scan_backward(Tensor grad, Tensor? grad_last, Tensor states, {_INPUTS}, str? backend=None) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """``h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t``, ``y_t = <C_t, h_t> + D u_t``, times ``silu(z)``.

    Selective scan of Gu & Dao 2023 (algorithm 2), with the signature, shapes and dtype rules of mamba_ssm's
    ``selective_scan_fn``, so that it replaces it with one import line.

    Args:
        u, delta: ``(B, D, L)``, float32, bfloat16, float16 or float64.
        A: ``(D, N)``, real or complex.
        B, C: constant ``(D, N)``, per position ``(B, N, L)``, or in G groups of channels ``(B, G, N, L)``; with complex
            A, real and imaginary parts alternate along a last axis of ``2 L`` (constant ones are complex).
        D, delta_bias: ``(D,)``.
        z: gate ``(B, D, L)``.
        delta_softplus: apply softplus to ``delta + delta_bias``.
        return_last_state: also return ``h_L``.
        backend: name of the backend to use; chosen automatically if not given.

    Returns:
        y ``(B, D, L)`` in u's dtype, and the last state ``(B, D, N)`` in float32 (float64, complex) if asked for.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument's rank, size or dtype does not fit.
        vimzoo.ops.BackendError: a forced backend cannot run it.
    """
    check_tensors(("D", "z", "delta_bias"), u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias)
    check_types(*FLAG, delta_softplus=delta_softplus, return_last_state=return_last_state)
    check_types(*NAME, backend=backend)
    out, last_state, _ = torch.ops.vimzoo.selective_scan(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, torch.is_grad_enabled(), backend
    )
    return (out, last_state) if return_last_state else out


def _check_matrices(given: Given) -> None:
    """B and C: constant ones are complex exactly when A is, the others real, in groups that divide the channels."""
    channels, groups = given["u"].shape[1], []
    for name in ("B", "C"):
        matrix = given[name]
        if matrix.is_complex() != (matrix.dim() == 2 and given["A"].is_complex()):
            when = f"complex exactly when A is ({given['A'].dtype})" if matrix.dim() == 2 else "real"
            raise ValueError(f"{name}: expected {when}, got {matrix.dtype}")
        if matrix.dim() != 4:
            continue
        count = matrix.shape[1]
        if count < 1 or channels % count:
            raise ValueError(
                f"{name}: expected a number of groups on axis 1 that divides {channels} channels, got {count}"
            )
        groups.append(count)
    # compared rather than collected in a set: symbolic sizes have no hash
    if len(groups) == 2 and groups[0] != groups[1] and groups[0] != 1 and groups[1] != 1:
        raise ValueError(f"C: expected as many groups as B, {given['B'].shape[1]}, got {given['C'].shape[1]}")


def _check_backward(given: Given) -> None:
    _check_matrices(given)
    call = SelectiveCall(*(given[name] for name in SelectiveCall.names(backward=True)))
    check_states(given["states"], call.states_size)


_TENSORS = {
    "u": ("B D L", FLOATING),
    "delta": ("B D L", like("u")),
    "z": ("B D L", like("u")),
    "A": ("D N", NUMBERS),
    "B": ("D N | B N S | B * N S", NUMBERS),
    "C": ("D N | B N S | B * N S", NUMBERS),
    "D": ("D", FLOATING),
    "delta_bias": ("D", FLOATING),
}
_SIZES = {"S": lambda given: given["u"].shape[2] * (2 if given["A"].is_complex() else 1)}


def _state_dtype(given: Given) -> torch.dtype:
    return SelectiveCall(*(given[name] for name in SelectiveCall.names(backward=True))).state_dtype


CONTRACT = Contract("selective_scan", _TENSORS, _SIZES, _check_matrices)
BACKWARD_CONTRACT = Contract(
    "selective_scan_backward",
    _TENSORS
    | {
        "grad": ("B D L", like("u")),
        "grad_last": ("B D N", exactly(_state_dtype)),
        "states": ("saved", exactly(lambda given: torch.float32)),
    },
    _SIZES,
    _check_backward,
)


def _fake(call: SelectiveCall, *, backend: str | None) -> tuple[Tensor, Tensor, Tensor]:
    saves = call.save_states and backends.saves_states("selective_scan", backend, call)
    u, last_shape = call.u, (call.batch, call.channels, call.d_state)
    states = u.new_empty(call.states_size if saves else 0, dtype=torch.float32)
    return u.new_empty(u.shape), u.new_empty(last_shape, dtype=call.state_dtype), states


implement("selective_scan", SelectiveCall, CONTRACT, _fake)
implement("selective_scan_backward", SelectiveCall, BACKWARD_CONTRACT, fake_gradients)
register(Derivative("selective_scan", SelectiveCall, reference.selective_scan, outputs=2, saved=1))
autocast_activations("selective_scan", activations=(0, 1, 3, 4, 6))


def _flops(u_shape, delta_shape, A_shape, *args, **kwargs) -> int:  # type: ignore
    """9 N per element for the recurrence and 2 for D (VMamba's convention)."""
    return u_shape[0] * u_shape[1] * u_shape[2] * (9 * A_shape[1] + 2)


flop_formula("selective_scan", papers=_flops)(_flops)
