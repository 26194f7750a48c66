"""The ops' definitions: plain PyTorch that a reader can check against the papers, on any device and dtype.

Everything runs in float32, or float64 where float64 comes in; outputs return to the input's dtype. Gradients come from
autograd. Nothing of size ``(B, D, L, N)`` is materialised in the forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from .conv.call import ConvCall
from .norm.call import NormCall
from .paths.path import tokens_from_codes
from .scan.call import CarriedCall, PathsCall, ScanCall, SelectiveCall


def compute_dtype(x: Tensor) -> torch.dtype:
    """Dtype of states and accumulators for an input like ``x``: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def recurrence(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The discretised state-space recurrence, step by step (Gu & Dao 2023, eq. 2 and algorithm 2).

    ``h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t``, ``y_t = <C_t, h_t>``.

    Args:
        u, delta: ``(B, G, D, L)``: G groups of D channels.
        A: ``(G, D, N)``, real or complex.
        B, C: ``(B, G, 1 or D, N, L)``; a 1 shares them over a group's channels.
        state: ``h_0 (B, G, D, N)``, in the dtype of the computation; zero if not given.

    Returns:
        y ``(B, G, D, L)`` and the last state ``(B, G, D, N)``.
    """
    if state is None:
        state = torch.zeros((*u.shape[:3], A.shape[-1]), dtype=torch.result_type(A, u), device=u.device)
    outputs = []
    delta_u = delta * u
    steps = zip(delta.unbind(-1), delta_u.unbind(-1), B.unbind(-1), C.unbind(-1), strict=True)
    for delta_t, delta_u_t, B_t, C_t in steps:
        decay = torch.exp(delta_t.unsqueeze(-1) * A)
        state = decay * state + delta_u_t.unsqueeze(-1) * B_t
        outputs.append((state * C_t).sum(-1))
    y = torch.stack(outputs, -1) if outputs else delta_u.to(state.dtype)
    return y, state


def selective_scan(call: SelectiveCall) -> tuple[Tensor, Tensor]:
    """Definition of `vimzoo.ops.selective_scan`: returns y ``(B, D, L)`` and the last state ``(B, D, N)``."""
    u, A, z = call.u, call.A, call.z
    work = compute_dtype(u)
    step = call.delta.to(work)
    if call.delta_bias is not None:
        step = step + rearrange(call.delta_bias.to(work), "d -> d 1")
    if call.delta_softplus:
        step = F.softplus(step)
    B, C = (_per_step(matrix, A, call.length, work) for matrix in (call.B, call.C))
    G = max(B.shape[1], C.shape[1])
    B, C = (_to_groups(matrix, G) for matrix in (B, C))
    u_work = u.to(work)
    u_split, step_split = (rearrange(t, "b (g d) l -> b g d l", g=G) for t in (u_work, step))
    y, state = recurrence(u_split, step_split, rearrange(A, "(g d) n -> g d n", g=G), B, C)
    if A.is_complex():
        y = 2 * y.real
    y = rearrange(y, "b g d l -> b (g d) l")
    if call.D is not None:
        y = y + rearrange(call.D.to(work), "d -> d 1") * u_work
    if z is not None:
        y = y * F.silu(z)  # in z's dtype, as mamba_ssm defines it
    return y.to(u.dtype), rearrange(state, "b g d n -> b (g d) n")


def _to_groups(matrix: Tensor, groups: int) -> Tensor:
    """Per-channel ``(1, 1, D, N, L)`` cut into groups, shared ``(B, 1 or G, 1, N, L)`` as it is."""
    if matrix.shape[2] == 1:
        return matrix
    return rearrange(matrix, "b 1 (g d) n l -> b g d n l", g=groups)


def _per_step(matrix: Tensor, A: Tensor, length: int, work: torch.dtype) -> Tensor:
    """B or C in any of mamba_ssm's three forms as ``(B, G, 1 or D, N, L)``."""
    if matrix.dim() == 2:  # constant, (D, N)
        matrix = matrix if matrix.is_complex() else matrix.to(work)
        return repeat(matrix, "d n -> 1 1 d n l", l=length)
    if matrix.dim() == 3:  # one group
        matrix = rearrange(matrix, "b n l -> b 1 n l")
    matrix = matrix.to(work)
    if A.is_complex():  # real and imaginary parts alternate along the last axis
        matrix = torch.view_as_complex(rearrange(matrix, "b g n (l two) -> b g n l two", two=2).contiguous())
    return rearrange(matrix, "b g n l -> b g 1 n l")


def along_paths(values: Tensor, tokens: Tensor) -> Tensor:
    """``(B, L, [K,] C)`` in token order -> ``(B, K, C, T)`` in the order of ``tokens (K, T)``, pads zero."""
    directions = len(tokens)
    values = rearrange(values, "b l c -> b l 1 c") if values.dim() == 3 else values
    values = values.expand(-1, -1, directions, -1)
    # row L is the pad, which a token of -1 picks; F.pad of torch 2.8 refuses tensors without elements
    values = torch.cat([values, values.new_zeros(len(values), 1, *values.shape[2:])], 1)
    picked = values[:, tokens, torch.arange(directions, device=values.device)[:, None]]
    return rearrange(picked, "b k t c -> b k c t")


def merged(y: Tensor, tokens: Tensor, length: int) -> Tensor:
    """``(B, K, T, D)`` in the order of ``tokens (K, T)`` -> ``(B, L, D)``: steps added to their tokens, no pads."""
    # row L collects the outputs of pads
    flat = rearrange(torch.where(tokens < 0, length, tokens), "k t -> (k t)")
    total = y.new_zeros(len(y), length + 1, y.shape[-1])
    return total.index_add(1, flat, rearrange(y, "b k t d -> b (k t) d"))[:, :length]


def path_parameters(call: PathsCall) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The recurrences that a scan runs.

    Returns:
        The tokens ``(K, T)`` that each path visits and, in the paths' order, the step sizes delta ``(B, K, D, T)``, the
        rates A ``(K, D, N)``, B and C ``(B, K, N, T)``.
    """
    work = compute_dtype(call.x)
    tokens = tokens_from_codes(call.codes, call.table, call.height, call.width).to(call.x.device)
    parts = [call.rank, call.d_state, call.d_state]
    low_rank, B, C = along_paths(call.rows.to(work), tokens).split(parts, dim=2)
    delta = call.dt_weight.to(work) @ low_rank + rearrange(call.dt_bias.to(work), "k d -> k d 1")
    return tokens, F.softplus(delta), call.A.to(work).expand(call.directions, -1, -1), B, C


def scan_paths(call: ScanCall) -> Tensor:
    """Definition of `vimzoo.ops.scan_paths`."""
    return _along(call, None)[0]


def scan_carried(call: CarriedCall) -> tuple[Tensor, Tensor]:
    """Definition of `vimzoo.ops.scan_paths` with states before the first step; returns those after the last as well."""
    return _along(call, call.initial(compute_dtype(call.x)))


def _along(call: PathsCall, state: Tensor | None) -> tuple[Tensor, Tensor]:
    x, z = call.x, call.z
    work = compute_dtype(x)
    tokens, delta, A, B, C = path_parameters(call)
    u = along_paths(x.to(work), tokens)
    B, C = (rearrange(matrix, "b k n t -> b k 1 n t") for matrix in (B, C))
    y, state = recurrence(u, delta, A, B, C, state)
    if call.D is not None:
        y = y + rearrange(call.D.to(work), "k d -> k d 1") * u
    y = rearrange(y, "b k d t -> b k t d")
    if call.merge:
        y = merged(y, tokens, call.length)
    if z is not None:
        y = y * F.silu(z.to(work))
    return y.to(x.dtype), state


def causal_conv1d(call: ConvCall) -> Tensor:
    """Definition of `vimzoo.ops.causal_conv1d`."""
    x, weight = call.x, call.weight
    work = compute_dtype(x)
    tokens = rearrange(x.to(work), "b l d -> b d l")
    outputs = []
    for k, backward in enumerate(call.reverse):
        values = tokens.flip(-1) if backward else tokens
        kernel = rearrange(weight[k].to(work), "d w -> d 1 w")
        offset = None if call.bias is None else call.bias[k].to(work)
        y = F.conv1d(F.pad(values, (call.taps - 1, 0)), kernel, offset, groups=weight.shape[1])
        outputs.append(y.flip(-1) if backward else y)
    y = rearrange(outputs, "k b d l -> b l k d")
    return (F.silu(y) if call.activation == "silu" else y).to(x.dtype)


def add_norm(call: NormCall) -> tuple[Tensor, Tensor]:
    """Definition of `vimzoo.ops.add_norm`."""
    x, residual = call.x, call.residual
    work = compute_dtype(x)
    stream = x.to(work) if residual is None else x.to(work) + residual.to(work)
    if call.rms:
        scaled = stream * torch.rsqrt(stream.square().mean(-1, keepdim=True) + call.eps)
    else:
        scaled = layer_norm(stream, stream.shape[-1:], eps=call.eps)
    scaled = scaled * call.weight.to(work)
    if call.bias is not None:
        scaled = scaled + call.bias.to(work)
    return scaled.to(x.dtype), stream.to(call.stream_dtype)


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.layer_norm` with correct derivatives of every order.

    torch's own treats the mean and the deviation as constants when its forward-mode derivative is differentiated
    backward, and in third derivatives.
    """
    axes = tuple(range(-len(normalized_shape), 0))
    centred = x - x.mean(axes, keepdim=True)
    y = centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias
