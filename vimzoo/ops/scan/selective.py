"""The selective scan with mamba_ssm's signature: what its ``selective_scan_fn`` computes, on any machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..runtime import native, threads
from ..runtime.backends import Unsupported
from ..runtime.contract import FLOATING, NUMBERS, Contract, Given, exactly, like
from ..runtime.derivatives import Derivative, register
from ..runtime.flops import flop_formula
from ..runtime.library import LIBRARY, autocast_activations, check_tensors, empty, gradients_of, implement
from . import cuda_scans, mamba_ssm_backend, triton_scans
from .along_paths import task_split

LIBRARY.define(
    "selective_scan(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "bool delta_softplus, bool save_states, str? backend=None) -> (Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    "selective_scan_backward(Tensor grad, Tensor? grad_last, Tensor states, Tensor u, Tensor delta, Tensor A, "
    "Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, bool delta_softplus, str? backend=None) "
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
        backend: insist on a backend.

    Returns:
        y ``(B, D, L)`` in u's dtype, and the last state ``(B, D, N)`` in float32 (float64, complex) if asked for.

    Raises:
        TypeError: naming what is no tensor.
        ValueError: naming the argument whose rank, size or dtype does not fit.
        vimzoo.ops.BackendError: if a forced backend cannot run it.
    """
    check_tensors(("D", "z", "delta_bias"), u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias)
    out, last_state, _ = torch.ops.vimzoo.selective_scan(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, torch.is_grad_enabled(), backend
    )
    return (out, last_state) if return_last_state else out


def _check_matrices(given: Given) -> None:
    """B and C: constant ones are complex exactly when A is, the others real, in groups that divide the channels."""
    channels, groups = given["u"].shape[1], {1}
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
        groups.add(count)
    if len(groups) > 2:
        raise ValueError(f"C: expected as many groups as B, {given['B'].shape[1]}, got {given['C'].shape[1]}")


def _check_backward(given: Given) -> None:
    _check_matrices(given)
    native.check_states(given["states"], _states_size(given["u"], given["A"], True))


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


def _states_size(u: Tensor, A: Tensor, save: bool) -> int:
    """`native.states_size`; 0 unless saved."""
    return native.states_size(u.shape[0], 1, u.shape[2], A.shape[1], u.shape[1]) if save else 0


def _state_dtype(u: Tensor, A: Tensor) -> torch.dtype:
    work = reference.compute_dtype(u)
    return torch.promote_types(work, torch.complex64) if A.is_complex() else work


CONTRACT = Contract("selective_scan", _TENSORS, _SIZES, _check_matrices)
BACKWARD_CONTRACT = Contract(
    "selective_scan_backward",
    _TENSORS
    | {
        "grad": ("B D L", like("u")),
        "grad_last": ("B D N", exactly(lambda given: _state_dtype(given["u"], given["A"]))),
        "states": ("saved", exactly(lambda given: torch.float32)),
    },
    _SIZES,
    _check_backward,
)


def _reference(u: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    *inputs, save = args
    out, last_state = reference.selective_scan(u, *inputs)
    # the reference's backward pass starts afresh; ones tell a native one, which needs states, that there are none
    states = torch.ones(_states_size(u, args[1], save), dtype=torch.float32, device=u.device)
    return out.contiguous(), last_state.contiguous().to(_state_dtype(u, args[1])), states


def _reference_backward(
    grad: Tensor, grad_last: Tensor | None, states: Tensor, *args: Any
) -> tuple[Tensor, ...]:
    if grad_last is None:
        return gradients_of(lambda *a: reference.selective_scan(*a)[0], args, 8, grad)
    return gradients_of(reference.selective_scan, args, 8, (grad, grad_last))


def _with_groups(matrix: Tensor, groups: int) -> Tensor:
    matrix = matrix.unsqueeze(1) if matrix.dim() == 3 else matrix
    return matrix.expand(-1, groups, -1, -1)


def _require(u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Any:
    library = native.require(u, B, C, states=A.shape[1])
    if A.is_complex():
        raise Unsupported("complex A")
    if B.dim() == 2 or C.dim() == 2:
        raise Unsupported("constant B or C")
    if B.dtype != C.dtype:
        raise Unsupported("B and C of different dtypes")
    return library


def _fields(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    bias: Tensor | None, softplus: bool,
) -> tuple[dict[str, int], list[Any]]:  # fmt: skip
    groups = max(m.shape[1] if m.dim() == 4 else 1 for m in (B, C))
    B, C = _with_groups(B, groups), _with_groups(C, groups)
    A, D, bias = (native.float_parameter(p) for p in (A, D, bias))  # type: ignore[assignment]
    fields = dict(
        batch=u.shape[0], channels=u.shape[1], length=u.shape[2], states=A.shape[1], groups=groups,
        dtype=native.DTYPES[u.dtype], bc_dtype=native.DTYPES[B.dtype], softplus=int(softplus),
        threads=threads.for_work((0.8 + 0.08 * A.shape[1]) * u.numel()),
        B=native.address(B), C=native.address(C), A=native.address(A), D=native.address(D),
        delta_bias=native.address(bias),
    )  # fmt: skip
    fields.update(zip(("B_b", "B_g", "B_n", "B_l"), B.stride(), strict=True))
    fields.update(zip(("C_b", "C_g", "C_n", "C_l"), C.stride(), strict=True))
    for name, tensor in (("u", u), ("delta", delta), ("z", z)):
        if tensor is not None:
            fields[name] = native.address(tensor)
            fields.update(zip((f"{name}_b", f"{name}_d", f"{name}_l"), tensor.stride(), strict=True))
    return fields, [B, C, A, D, bias]


def _native(u: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    *inputs, save = args
    library = _require(u, *args[1:4])
    out = torch.empty(u.shape, dtype=u.dtype)
    last_state = torch.zeros(u.shape[0], u.shape[1], args[1].shape[1])
    states = torch.empty(_states_size(u, args[1], save))
    if out.numel():
        fields, alive = _fields(u, *inputs)
        library.selective_scan_forward(native.SelectiveScanArgs(
            **fields, out=native.address(out), last_state=native.address(last_state),
            kept=native.address(states) if save else 0,
        ))  # fmt: skip
        del alive
    return out, last_state, states


def _native_backward(
    grad: Tensor, grad_last: Tensor | None, states: Tensor, *args: Any
) -> tuple[Tensor, ...]:
    u, _, A, B, C, D, z, bias = args[:8]
    library = _require(u, A, B, C)
    native.require(grad)
    states = native.required_states(states, grad)
    fields, alive = _fields(*args)
    batch, channels, length = u.shape
    batch_groups, parts = task_split(batch, channels // fields["groups"])
    du, ddelta = (torch.empty(u.shape, dtype=u.dtype) for _ in range(2))
    dz = empty(u) if z is None else torch.empty(u.shape, dtype=u.dtype)
    narrow = (parts, batch, fields["groups"], A.shape[1], length)
    dB, dC = torch.zeros(narrow), torch.zeros(narrow)
    dA, dD, dbias = (torch.zeros(batch_groups, channels, *tail) for tail in ((A.shape[1],), (), ()))
    if grad.numel():
        last = None if grad_last is None else grad_last.float().contiguous()
        outputs = dict(
            du=du, ddelta=ddelta, dz=None if z is None else dz, dB=dB, dC=dC, dA=dA, dD=dD, dbias=dbias
        )
        library.selective_scan_backward(native.SelectiveScanArgs(
            **fields, batch_groups=batch_groups, parts=parts, kept=native.address(states), dy=native.address(grad),
            dy_b=grad.stride(0), dy_d=grad.stride(1), dy_l=grad.stride(2), d_last=native.address(last),
            **{name: native.address(tensor) for name, tensor in outputs.items()},
        ))  # fmt: skip
        del alive

    def narrow_gradient(total: Tensor, like: Tensor) -> Tensor:
        total = total.sum(0)
        shared = like.dim() == 3 or like.shape[1] == 1
        total = total.sum(1, keepdim=True) if shared and total.shape[1] > 1 else total
        return total.reshape(like.shape).to(like.dtype)

    def parameter_gradient(total: Tensor, like: Tensor | None) -> Tensor:
        return empty(u) if like is None else total.sum(0).to(like.dtype)

    return (
        du, ddelta, parameter_gradient(dA, A), narrow_gradient(dB, B), narrow_gradient(dC, C),
        parameter_gradient(dD, D), dz, parameter_gradient(dbias, bias),
    )  # fmt: skip


_FORWARD: dict[str, Callable[..., Any]] = {
    "cpu": _native,
    "triton": triton_scans.selective_scan,
    "cuda": cuda_scans.selective_scan,
    "mamba_ssm": mamba_ssm_backend.selective_scan,
    "reference": _reference,
}
_BACKWARD: dict[str, Callable[..., Any]] = {
    "cpu": _native_backward,
    "triton": triton_scans.selective_scan_backward,
    "cuda": cuda_scans.selective_scan_backward,
    "mamba_ssm": mamba_ssm_backend.selective_scan_backward,
    "reference": _reference_backward,
}
implement("selective_scan", _FORWARD, CONTRACT)
implement("selective_scan_backward", _BACKWARD, BACKWARD_CONTRACT)


@torch.library.register_fake("vimzoo::selective_scan")
def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus, save_states, backend=None):  # type: ignore
    CONTRACT.check(u, delta, A, B, C, D, z, delta_bias, delta_softplus, save_states)
    last_state = u.new_empty((u.shape[0], u.shape[1], A.shape[1]), dtype=_state_dtype(u, A))
    return (
        u.new_empty(u.shape),
        last_state,
        u.new_empty(_states_size(u, A, save_states), dtype=torch.float32),
    )


@torch.library.register_fake("vimzoo::selective_scan_backward")
def _(grad, grad_last, states, u, delta, A, B, C, D, z, delta_bias, delta_softplus, backend=None):  # type: ignore
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    BACKWARD_CONTRACT.check(grad, grad_last, states, *tensors, delta_softplus)
    return tuple(empty(u) if tensor is None else tensor.new_empty(tensor.shape) for tensor in tensors)


def _save(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(output[2], *inputs[:8])
    ctx.delta_softplus, ctx.backend = inputs[8], inputs[10]
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, grad: Tensor | None, grad_last: Tensor | None, _states: Any) -> tuple:
    states, *tensors = ctx.saved_tensors
    if grad is None and grad_last is None:
        return (None,) * 11
    grad = torch.zeros_like(tensors[0]) if grad is None else grad
    grads = torch.ops.vimzoo.selective_scan_backward(
        grad, grad_last, states, *tensors, ctx.delta_softplus, ctx.backend
    )
    kept = (None if tensor is None else gradient for tensor, gradient in zip(tensors, grads, strict=True))
    return (*kept, None, None, None)


register(
    Derivative(
        "selective_scan", reference.selective_scan, tensors=8, outputs=2, saved=1, plain=_reference, save=_save,
        backward=_gradient,
    )
)  # fmt: skip
autocast_activations("selective_scan", activations=(0, 1, 3, 4, 6))


def _flops(u_shape, delta_shape, A_shape, *args, **kwargs) -> int:  # type: ignore
    """9 N per element for the recurrence and 2 for D (VMamba's convention)."""
    return u_shape[0] * u_shape[1] * u_shape[2] * (9 * A_shape[1] + 2)


flop_formula("selective_scan", papers=_flops)(_flops)
