"""The functions that VMamba's layers call, under the authors' names and with their tensor layouts."""

from typing import Any

import torch
from torch import Tensor

from vimzoo.layers.ss2d import SCANS
from vimzoo.ops import ScanPath, selective_scan, use_backend

_NUMBERED = ("cross", "unidirectional", "bidirectional")


def _paths(scans: int) -> tuple[ScanPath, ...]:
    if scans not in range(len(_NUMBERED)):
        raise ValueError(
            f"scans: expected 0, 1 or 2, got {scans}; 3, for debugging in theirs, is not offered"
        )
    return SCANS[_NUMBERED[scans]]


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = True,
    oflex: bool = True,
    backend: str | None = None,
) -> Tensor:
    """The authors' selective scan, without a gate; softplus is on by default.

    Args:
        u, delta: ``(B, K * C, L)``.
        A: ``(K * C, N)``.
        B, C: ``(B, K, N, L)``.
        D, delta_bias: ``(K * C,)``.
        delta_softplus: Apply it to the step sizes.
        oflex: Return float32 whatever ``u`` is.
        backend: Has no effect; it names their kernels.

    Returns:
        ``(B, K * C, L)``.
    """
    y: Any = selective_scan(u, delta, A, B, C, D, None, delta_bias, delta_softplus)
    return y.float() if oflex and y.dtype in (torch.float16, torch.bfloat16) else y


def selective_scan_torch(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = True,
    oflex: bool = True,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """`selective_scan_fn` computed by its definition, the backend ``reference``; further arguments have no effect."""
    with use_backend("reference"):
        return selective_scan_fn(u, delta, A, B, C, D, delta_bias, delta_softplus, oflex)


def flops_selective_scan_fn(
    B: int = 1,
    L: int = 256,
    D: int = 768,
    N: int = 16,
    with_D: bool = True,
    with_Z: bool = False,
    with_complex: bool = False,
) -> int:
    """Operations of a scan as papers count: 9 per state, and one each for D and the gate, of every element.

    Args:
        B, L, D, N: Sizes of batch, sequence, channels and states.
        with_D, with_Z: Whether there is a D and a gate.
        with_complex: Must be False.
    """
    if with_complex:
        raise NotImplementedError("with_complex: expected False")
    return B * L * D * (9 * N + bool(with_D) + bool(with_Z))


def selective_scan_chunk_fn(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int = 64,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    backend: str | None = None,
) -> Any:
    """Mamba-2's scan (Dao & Gu 2024), run as a selective scan: a head's numbers are repeated for its channels.

    Args:
        x: ``(B, L, H, P)``; head h reads group ``h // (H / G)`` of B and C.
        dt: ``(B, L, H)``.
        A, dt_bias: ``(H,)``.
        B, C: ``(B, L, G, N)``.
        D: ``(H,)`` or ``(H, P)``.
        z: Gate ``(B, L, H, P)``.
        dt_softplus: Apply softplus to the step sizes.
        return_final_states: Return the last states too, ``(B, H, P, N)``.
        chunk_size, backend: Has no effect on the result.

    Returns:
        ``(B, L, H, P)``, or a pair with the states.

    Raises:
        NotImplementedError: ``initial_states``, ``seq_idx`` or ``dt_limit`` is given.
    """
    if initial_states is not None or seq_idx is not None or tuple(dt_limit) != (0.0, float("inf")):
        raise NotImplementedError("initial_states, seq_idx, dt_limit: expected to be left out")
    batch, length, heads, width = x.shape

    def per_channel(values: Tensor) -> Tensor:
        return values.repeat_interleave(width, -1)

    result: Any = selective_scan(
        x.flatten(2).transpose(1, 2),
        per_channel(dt).to(x.dtype).transpose(1, 2),
        per_channel(A).unsqueeze(-1).expand(-1, B.shape[-1]),
        B.permute(0, 2, 3, 1),
        C.permute(0, 2, 3, 1),
        None if D is None else (D.flatten() if D.dim() == 2 else per_channel(D)),
        None if z is None else z.flatten(2).transpose(1, 2),
        None if dt_bias is None else per_channel(dt_bias),
        dt_softplus,
        return_final_states,
    )
    y, states = result if return_final_states else (result, None)
    y = y.transpose(1, 2).reshape(batch, length, heads, width)
    return y if states is None else (y, states.unflatten(1, (heads, width)))


def cross_scan_fn(
    x: Tensor,
    in_channel_first: bool = True,
    out_channel_first: bool = True,
    one_by_one: bool = False,
    scans: int = 0,
    force_torch: bool = False,
) -> Tensor:
    """Copies a map in the order of each of four paths. Our own layers need no such copies.

    Args:
        x: ``(B, C, H, W)`` or ``(B, H, W, C)``; with ``one_by_one`` one map per path, ``(B, 4, C, H, W)`` or
            ``(B, H, W, 4, C)``.
        in_channel_first, out_channel_first: Whether the channels of input and output come before the positions.
        scans: 0: rows, columns and their reverses; 1: rows four times; 2: rows and their reverse, each twice.
        force_torch: Has no effect.

    Returns:
        ``(B, 4, C, L)`` or ``(B, L, 4, C)``.

    Raises:
        ValueError: ``scans`` is another number.
    """
    if one_by_one:
        maps = x if in_channel_first else x.permute(0, 3, 4, 1, 2)
    else:
        maps = (x if in_channel_first else x.permute(0, 3, 1, 2)).unsqueeze(1).expand(-1, 4, -1, -1, -1)
    height, width = maps.shape[-2:]
    tokens = [path.tokens(height, width).to(x.device) for path in _paths(scans)]
    y = torch.stack([maps[:, k].flatten(2)[..., order] for k, order in enumerate(tokens)], dim=1)
    return y if out_channel_first else y.permute(0, 3, 1, 2)


def cross_merge_fn(
    y: Tensor,
    in_channel_first: bool = True,
    out_channel_first: bool = True,
    one_by_one: bool = False,
    scans: int = 0,
    force_torch: bool = False,
) -> Tensor:
    """The transpose of `cross_scan_fn`: puts the outputs of four paths into the map's order and adds them up.

    Args:
        y: ``(B, 4, C, H, W)``, or ``(B, H, W, 4, C)`` without ``out_channel_first``, in each path's order.
        in_channel_first, out_channel_first: As for `cross_scan_fn`, whose input this returns.
        one_by_one: Do not add up.
        scans: As for `cross_scan_fn`.
        force_torch: Has no effect.

    Returns:
        ``(B, C, L)`` or ``(B, L, C)``; ``one_by_one`` ``(B, 4, C, L)`` or ``(B, L, 4, C)``.

    Raises:
        ValueError: ``scans`` is another number.
    """
    y = y if out_channel_first else y.permute(0, 3, 4, 1, 2)
    height, width = y.shape[-2:]
    places = [path.inverse(height, width).to(y.device) for path in _paths(scans)]
    x = torch.stack([y[:, k].flatten(2)[..., place] for k, place in enumerate(places)], dim=1)
    if one_by_one:
        return x if in_channel_first else x.permute(0, 3, 1, 2)
    x = x.sum(1)
    return x if in_channel_first else x.transpose(1, 2)
