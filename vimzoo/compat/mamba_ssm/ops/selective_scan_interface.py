"""The selective scan and the mixer around it as functions (Gu & Dao 2023, figure 3), in mamba_ssm's layout."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from vimzoo.ops import causal_conv1d, use_backend
from vimzoo.ops import selective_scan as selective_scan_fn

__all__ = [
    "bimamba_inner_fn", "bimamba_inner_ref", "mamba_inner_fn", "mamba_inner_fn_no_out_proj", "mamba_inner_ref",
    "selective_scan_fn", "selective_scan_ref",
]  # fmt: skip


def selective_scan_ref(
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
) -> Any:
    """`vimzoo.ops.selective_scan` computed by its definition, the backend ``reference``."""
    return selective_scan_fn(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, backend="reference"
    )


def _per_position(rows: Tensor, bias: Tensor | None, complex_A: bool) -> Tensor:
    """B or C as the scan takes it, ``(batch, 1, N, L)``, of ``(batch, L, N)``; complex numbers are pairs along L."""
    if bias is not None:
        rows = rows + bias.to(rows.dtype)
    if not complex_A:
        return rows.transpose(1, 2).unsqueeze(1).contiguous()
    pairs = rows.unflatten(2, (-1, 2)).permute(0, 2, 1, 3)  # (batch, N, L, 2)
    return pairs.flatten(2).unsqueeze(1).contiguous()


def mamba_inner_fn_no_out_proj(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """The mixer between its two projections: convolution, SiLU, step sizes, B and C, scan, gate.

    Args:
        xz: ``(batch, 2 D, L)``: what is scanned and the gate.
        conv1d_weight, conv1d_bias: ``(D, 1, W)``, ``(D,)``.
        x_proj_weight: ``(R + 2 N, D)``; of complex numbers ``(R + 4 N, D)``.
        delta_proj_weight: ``(D, R)``.
        A: ``(D, N)``, real or complex.
        B, C: As `vimzoo.ops.selective_scan` takes them; by default computed from the input.
        D, delta_bias: ``(D,)``.
        B_proj_bias, C_proj_bias: Added to the computed B and C.
        delta_softplus: Apply softplus to the step sizes.

    Returns:
        ``(batch, D, L)``.
    """
    u, delta, B, C, z = _scan_inputs(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, B_proj_bias, C_proj_bias
    )
    y: Any = selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return y


def _scan_inputs(
    xz: Tensor, conv1d_weight: Tensor, conv1d_bias: Tensor | None, x_proj_weight: Tensor, delta_proj_weight: Tensor,
    A: Tensor, B: Tensor | None, C: Tensor | None, B_proj_bias: Tensor | None, C_proj_bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The input ``u``, step sizes, B, C and gate ``z`` of the scan."""
    x, z = xz.chunk(2, dim=1)
    bias = None if conv1d_bias is None else conv1d_bias[None]
    tokens = causal_conv1d(x.transpose(1, 2), conv1d_weight.transpose(0, 1), bias, "silu")[:, :, 0]
    rank, states = delta_proj_weight.shape[1], A.shape[-1] * (2 if A.is_complex() else 1)
    dt, rows_b, rows_c = F.linear(tokens, x_proj_weight).split([rank, states, states], dim=-1)
    delta = F.linear(dt, delta_proj_weight).transpose(1, 2)
    if B is None:
        B = _per_position(rows_b, B_proj_bias, A.is_complex())
    if C is None:
        C = _per_position(rows_c, C_proj_bias, A.is_complex())
    return tokens.transpose(1, 2), delta, B, C, z


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
) -> Tensor:
    """`mamba_inner_fn_no_out_proj`, then the output projection: ``(batch, L, out)``.

    Args:
        out_proj_weight, out_proj_bias: ``(out, D)``, ``(out,)``.
        checkpoint_lvl: Has no effect; our kernels decide what they recompute.
        b_rms_weight, c_rms_weight, dt_rms_weight, b_c_dt_rms_eps: Must be left out.

    The others are those of `mamba_inner_fn_no_out_proj`.

    Raises:
        NotImplementedError: norms of B, C or the step sizes are asked for.
    """
    if not (b_rms_weight is None and c_rms_weight is None and dt_rms_weight is None):
        raise NotImplementedError(
            "b_rms_weight, c_rms_weight, dt_rms_weight: expected None, norms are not offered"
        )
    y = mamba_inner_fn_no_out_proj(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, D, delta_bias, B_proj_bias,
        C_proj_bias, delta_softplus,
    )  # fmt: skip
    return F.linear(y.transpose(1, 2), out_proj_weight, out_proj_bias)


def bimamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    A_b: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """`mamba_inner_fn` with a second scan, backward along the sequence with ``A_b``, added to the first (Vim's v1)."""
    u, delta, B, C, z = _scan_inputs(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, B_proj_bias, C_proj_bias
    )
    y: Any = selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    complex_A = A.is_complex()
    B, C = _reversed(B, complex_A), _reversed(C, complex_A)
    backward: Any = selective_scan_fn(
        u.flip(-1), delta.flip(-1), A_b, B, C, D, z.flip(-1), delta_bias, delta_softplus
    )
    return F.linear((y + backward.flip(-1)).transpose(1, 2), out_proj_weight, out_proj_bias)


def _reversed(rows: Tensor, complex_A: bool) -> Tensor:
    """B or C of the flipped sequence; constants stay."""
    if rows.dim() < 3:
        return rows
    return rows.unflatten(-1, (-1, 2)).flip(-2).flatten(-2) if complex_A else rows.flip(-1)


def _by_reference(function: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
    """The same function on the backend ``reference``."""

    @wraps(function)
    def on_reference(*args: Any, **kwargs: Any) -> Tensor:
        with use_backend("reference"):
            return function(*args, **kwargs)

    on_reference.__name__ = on_reference.__qualname__ = name
    on_reference.__doc__ = f"`{function.__name__}` by plain definitions, the backend ``reference``."
    return on_reference


mamba_inner_ref = _by_reference(mamba_inner_fn, "mamba_inner_ref")
bimamba_inner_ref = _by_reference(bimamba_inner_fn, "bimamba_inner_ref")
