"""The operators in PyTorch's own terms, for exporters that know no custom ones.

The definitions are those of `reference`, with two differences that a graph needs: the recurrence is one
``torch.scan``, a loop that stays a loop whatever its length, and paths with a closed form are views, so that height
and width may stay open. Nothing here is meant to be fast in eager mode or to have gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._higher_order_ops.scan import scan_op

from .. import reference
from ..conv.call import ConvCall
from ..norm.call import NormCall
from ..paths.path import COLUMN
from ..reference import compute_dtype
from ..runtime.call import empty
from ..runtime.library import filled
from .call import ScanCall


def _step(
    state: Tensor, delta: Tensor, delta_u: Tensor, B: Tensor, C: Tensor, A: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of `reference.recurrence`; state ``(B, K, D, N)``, delta and delta_u ``(B, K, D)``."""
    state = torch.exp(delta.unsqueeze(-1) * A) * state + delta_u.unsqueeze(-1) * B.unsqueeze(2)
    return state, (state * C.unsqueeze(2)).sum(-1)


def recurrence(delta: Tensor, delta_u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """`reference.recurrence` with time first.

    Args:
        delta, delta_u: ``(T, B, K, D)``.
        A: ``(K, D, N)``.
        B, C: ``(T, B, K, N)``.

    Returns:
        ``(T, B, K, D)``.
    """
    start = delta.new_zeros(*delta.shape[1:], A.shape[-1])
    _, y = scan_op(_step, [start], [delta, delta_u, B, C], (A,))
    return y


def _along(values: Tensor, code: int, height: int, width: int) -> Tensor:
    """``(B, L, C)`` in token order -> in the order of a closed-form path."""
    if code >= COLUMN:
        values = values.unflatten(1, (height, width)).transpose(1, 2).flatten(1, 2)
    return values.flip(1) if code & 1 else values


def _back(values: Tensor, code: int, height: int, width: int) -> Tensor:
    """The inverse of `_along`."""
    values = values.flip(1) if code & 1 else values
    if code >= COLUMN:
        values = values.unflatten(1, (width, height)).transpose(1, 2).flatten(1, 2)
    return values


def _gather(values: Tensor, tokens: Tensor) -> Tensor:
    """``(B, L, C)`` -> ``(B, T, C)`` at ``tokens``; zeros where those are -1."""
    return F.pad(values, (0, 0, 0, 1)).index_select(1, torch.where(tokens < 0, values.shape[1], tokens))


def _scatter(values: Tensor, tokens: Tensor, length: int) -> Tensor:
    """The adjoint of `_gather`: sums ``(B, T, C)`` at the tokens, ``(B, L, C)``."""
    index = torch.where(tokens < 0, length, tokens)[None, :, None].expand(values.shape)
    total = values.new_zeros(values.shape[0], length + 1, values.shape[2])
    return total.scatter_add(1, index, values)[:, :length]


def scan_paths(*arguments: Any) -> tuple[Tensor, Tensor]:
    """``vimzoo::scan_paths`` as `reference.scan_paths` defines it; the second output, the saved states, is empty.

    Args:
        arguments: those of the operator, which are the fields of `ScanCall` and ``backend``, which is ignored.
    """
    call = ScanCall(*arguments[: len(ScanCall.names())])
    x, table, codes, grid = call.x, call.table, call.codes, (call.height, call.width)
    work, K = compute_dtype(x), call.directions
    x_work, rows_work = x.to(work), call.x_dbl.to(work)

    def direction(values: Tensor, k: int) -> Tensor:
        """Direction k of ``(B, L, [K or 1,] C)`` in path order, ``(B, T, C)``."""
        if values.dim() == 4:
            values = values[:, :, k if values.shape[2] > 1 else 0]
        if table is not None:
            return _gather(values, table[k].long())
        return _along(values, codes[k], *grid)

    u = torch.stack([direction(x_work, k) for k in range(K)], 2).transpose(0, 1)  # (T, B, K, D)
    rows = torch.stack([direction(rows_work, k) for k in range(K)], 2).transpose(0, 1)
    low_rank, B, C = rows.split([call.rank, call.d_state, call.d_state], -1)
    delta = (call.dt_weight.to(work) @ low_rank.unsqueeze(-1)).squeeze(-1) + call.dt_bias.to(work)
    delta = F.softplus(delta)
    y = recurrence(delta, delta * u, call.A.to(work).expand(K, -1, -1), B, C)
    if call.D is not None:
        y = y + call.D.to(work) * u
    y = y.transpose(0, 1)  # (B, T, K, D)
    if not call.merge:
        return y.transpose(1, 2).to(x.dtype), empty(x)
    total = sum(
        _back(y[:, :, k], codes[k], *grid)
        if table is None
        else _scatter(y[:, :, k], table[k].long(), call.length)
        for k in range(K)
    )
    assert isinstance(total, Tensor)
    if call.z is not None:
        total = total * F.silu(call.z.to(work))
    return total.to(x.dtype), empty(x)


def causal_conv1d(*arguments: Any) -> Tensor:
    """``vimzoo::causal_conv1d``; ``backend`` is ignored and ``activation`` may be left out, as in its schema."""
    inputs = arguments[: len(ConvCall.names())]
    return reference.causal_conv1d(ConvCall(*filled(inputs, len(ConvCall.names()))))


def add_norm(*arguments: Any) -> tuple[Tensor, Tensor]:
    """``vimzoo::add_norm``; ``backend`` is ignored."""
    call = NormCall(*arguments[: len(NormCall.names())])
    normed, stream = reference.add_norm(call)
    return normed, stream.clone() if stream is call.x else stream


def stable_sort(
    x: Tensor, *, stable: bool | None = True, dim: int = -1, descending: bool = False
) -> tuple[Tensor, Tensor]:
    """``aten::sort.stable`` of whole numbers, which MambaIRv2 sorts its tokens by, in terms of an unstable sort."""
    if x.is_floating_point() or descending:
        raise NotImplementedError("lowering of a stable sort: expected ascending whole numbers")
    count = x.shape[dim]
    place = torch.arange(count, device=x.device).view(
        [-1 if d == dim % x.dim() else 1 for d in range(x.dim())]
    )
    order = (x * count + place).sort(dim).indices
    return x.gather(dim, order), order


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.vimzoo.scan_paths.default: scan_paths,
    torch.ops.vimzoo.causal_conv1d.default: causal_conv1d,
    torch.ops.vimzoo.add_norm.default: add_norm,
    torch.ops.aten.sort.stable: stable_sort,
}
"""Decompositions, for ``ExportedProgram.run_decompositions``, of the operators that exporters do not know."""
