"""The scan of vision state-space models: K paths over one map, from the narrow projections to the merged output."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from .. import backends, reference
from ..paths.path import ScanPath, checked_paths, grid_arguments
from ..runtime.contract import Contract
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
from .call import ScanCall
from .carried import carried_codes
from .rules import (
    PARAMETERS,
    SAVED,
    SETTINGS,
    SIZES,
    TENSORS,
    by_state,
    check_backward,
    check_grid,
    check_settings,
    scan_flops,
)

_INPUTS = f"{PARAMETERS}, {SETTINGS}"
LIBRARY.define(f"scan_paths({_INPUTS}, bool save_states, str? backend=None) -> (Tensor, Tensor)")
LIBRARY.define(
    f"scan_paths_backward(Tensor grad, Tensor states, {_INPUTS}, str? backend=None) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def scan_paths(
    x: Tensor,
    x_dbl: Tensor,
    A: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    *,
    paths: Sequence[ScanPath],
    grid: Sequence[int] | None = None,
    merge: bool = True,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Selective scan along K paths over a map, without flips or copies of the tokens.

    For each path k and step t at token p: ``delta = softplus(dt_weight_k dt_p + dt_bias_k)``,
    ``h_t = exp(delta A_k) h_{t-1} + delta B_p x_p``, ``y_p += <C_p, h_t> + D_k x_p``; the sum over paths is then
    multiplied by ``silu(z)``. K = 2 over a sequence is Vim's mixer (Zhu et al. 2024, algorithm 1), K = 4 over a map
    VMamba's SS2D (Liu et al. 2024, section 4.2).

    With rows ``[dt | B]``, without C, the output is the states instead: ``y_p += h_t`` (Xiao et al. 2024,
    Spatial-Mamba, whose C follows a fusion of neighbouring states).

    Args:
        x: ``(B, L, D)`` tokens, channels last, or ``(B, L, K, D)`` where each path has its own.
        x_dbl: ``(B, L, K or 1, R + 2 N)`` rows ``[dt | B | C]`` in token order, or ``(B, L, K or 1, R + N)`` rows
            ``[dt | B]`` for the states; N and R are those of ``A`` and ``dt_weight``.
        A: ``(K or 1, D, N)``, real; negative, or the state grows without bound.
        dt_weight, dt_bias, D: ``(K or 1, D, R)``, ``(K or 1, D)``, ``(K or 1, D)``. An axis of 1 is shared by all.
        z: gate ``(B, L, D)``; only with ``merge``. States have neither gate nor D.
        paths: K scan paths; -1 in a path's table is a pad, tokens a path leaves out get nothing from it.
        grid: ``(H, W)`` with ``H W = L``, or the sizes of a volume, ``(D, H, W)``, or of a grid with more axes;
            ``(1, L)``, a sequence, if not given.
        merge: sum the paths in token order; otherwise return each in its own order.
        initial_state: ``(B, K, D, N)``, the states before the first step of each path; zero if not given.
        return_final_state: also return the states after the last step, from which a scan of later tokens goes on.
        backend: name of the backend to use; chosen automatically if not given.

    Activations (x, x_dbl, z) share float32, bfloat16, float16 or float64; states and sums are float32 (float64).

    Returns:
        ``(B, L, D)`` if ``merge``, else ``(B, K, T, D)`` with T the paths' number of steps; dtype of x. States are of
        the same shape for N = 1, with a last axis of N for more, and 0 at pads. With ``return_final_state`` also the
        last states ``(B, K, D, N)``, in float32 (float64 for float64).

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument's rank, size or dtype does not fit.
        vimzoo.ops.BackendError: a forced backend cannot run it.
    """
    tensors = {"x": x, "x_dbl": x_dbl, "A": A, "dt_weight": dt_weight, "dt_bias": dt_bias, "D": D, "z": z}
    check_tensors(("D", "z", "initial_state"), **tensors, initial_state=initial_state)
    check_types(*FLAG, merge=merge, return_final_state=return_final_state)
    check_types(*NAME, backend=backend)
    paths = checked_paths(paths)
    length = x.shape[1] if x.dim() > 1 else 0
    grid = (1, length) if grid is None else grid
    sizes = (Integral, torch.SymInt, Tensor)  # tensors while torch.jit.trace records a graph
    if not isinstance(grid, Sequence) or not grid or not all(isinstance(size, sizes) for size in grid):
        raise ValueError(f"grid: expected (H, W) with H * W = {length}, got {grid!r}")
    if x.dim() > 1:
        check_grid(grid, length)  # before tables are made for it
    codes, table, height, width = grid_arguments(paths, grid, x.device)
    if initial_state is None and not return_final_state:
        return scan_codes(
            x, x_dbl, A, dt_weight, dt_bias, D, z, codes=codes, table=table, height=height, width=width, merge=merge,
            backend=backend,
        )  # fmt: skip
    y, final = carried_codes(
        x, x_dbl, A, dt_weight, dt_bias, D, z, initial_state, codes, table, height, width, merge, backend
    )
    return (y, final) if return_final_state else y


def scan_codes(
    x: Tensor,
    x_dbl: Tensor,
    A: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    codes: list[int],
    table: Tensor | None,
    height: int,
    width: int,
    merge: bool = True,
    backend: str | None = None,
) -> Tensor:
    """`scan_paths` for layers: it can be scripted, and traced by ``torch.jit.trace`` for maps of every size.

    Args:
        x, x_dbl, A, dt_weight, dt_bias, D, z, merge, backend: as in `scan_paths`; also rows without C.
        codes, table: the paths as `vimzoo.ops.path_arguments` returns them.
        height, width: the grid; ``1 x L`` for a sequence.

    A traced graph holds a table as a constant and refuses maps other than the one that the table was made for.

    Raises:
        ValueError: an argument's rank, size or dtype does not fit.
        vimzoo.ops.BackendError: a forced backend cannot run it.
    """
    if not torch.jit.is_scripting() and torch.jit.is_tracing() and backend is None:
        return _recorded(x, x_dbl, A, dt_weight, dt_bias, D, z, codes, table, height, width, merge)
    if not torch.jit.is_scripting():  # noqa: SIM102  TorchScript skips only a block of its own
        if not by_state(x_dbl, A, dt_weight) and is_inference(x, x_dbl, A, dt_weight, dt_bias, D, z, table):
            return KERNELS["scan_paths"](
                x, x_dbl, A, dt_weight, dt_bias, D, z, codes, table, height, width, merge, False, backend
            )[0]
    return _scan(x, x_dbl, A, dt_weight, dt_bias, D, z, codes, table, height, width, merge, backend)


@torch.jit.unused
def _recorded(
    x: Tensor,
    x_dbl: Tensor,
    A: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    codes: list[int],
    table: Tensor | None,
    height: int,
    width: int,
    merge: bool,
) -> Tensor:
    """`scan_codes` under ``torch.jit.trace``; the graph has one node for the operator, outside of any branch."""
    sizes = torch.as_tensor(height), torch.as_tensor(width)
    grid = [] if table is None else [int(height), int(width)]

    def scan(rows: Tensor, A: Tensor) -> Tensor:
        return _traced_scan(x, rows, A, dt_weight, dt_bias, D, z, codes, table, *sizes, merge, grid)

    if not by_state(x_dbl, A, dt_weight):
        return scan(x_dbl, A)
    R, N = dt_weight.shape[-1], A.shape[-1]
    return torch.stack([scan(_rows_of(x_dbl, R, n), A[..., n : n + 1]) for n in range(N)], -1)


def _scan(
    x: Tensor,
    x_dbl: Tensor,
    A: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    codes: list[int],
    table: Tensor | None,
    height: int,
    width: int,
    merge: bool,
    backend: str | None,
) -> Tensor:
    """One call of the operator; for the states of N > 1, a call for each, which scans with that state alone."""
    if by_state(x_dbl, A, dt_weight):
        states: list[Tensor] = []
        for n in range(A.shape[-1]):
            rows = _rows_of(x_dbl, dt_weight.shape[-1], n)
            states.append(
                _one_scan(
                    x,
                    rows,
                    A[..., n : n + 1],
                    dt_weight,
                    dt_bias,
                    D,
                    z,
                    codes,
                    table,
                    height,
                    width,
                    merge,
                    backend,
                )
            )
        return torch.stack(states, -1)
    return _one_scan(x, x_dbl, A, dt_weight, dt_bias, D, z, codes, table, height, width, merge, backend)


def _rows_of(x_dbl: Tensor, R: int, n: int) -> Tensor:
    """The rows ``[dt | B]`` of one state."""
    return torch.cat([x_dbl[..., :R], x_dbl[..., R + n : R + n + 1]], -1)


def _one_scan(
    x: Tensor,
    x_dbl: Tensor,
    A: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    codes: list[int],
    table: Tensor | None,
    height: int,
    width: int,
    merge: bool,
    backend: str | None,
) -> Tensor:
    y, _ = torch.ops.vimzoo.scan_paths(
        x,
        x_dbl,
        A,
        dt_weight,
        dt_bias,
        D,
        z,
        codes,
        table,
        height,
        width,
        merge,
        torch.is_grad_enabled(),
        backend,
    )
    return y


@torch.jit.script_if_tracing
def _traced_scan(
    x: Tensor,
    x_dbl: Tensor,
    A: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    codes: list[int],
    table: Tensor | None,
    height: Tensor,
    width: Tensor,
    merge: bool,
    grid: list[int],
) -> Tensor:
    """`scan_codes` in a graph recorded by ``torch.jit.trace``: sizes are tensors, as numbers would become constants.

    Raises:
        ValueError: the map is not ``grid``, for which the table was made.
    """
    h, w = int(height), int(width)
    if len(grid) == 2 and (h != grid[0] or w != grid[1]):
        raise ValueError(f"x: this model was traced with a map of {grid[0]} x {grid[1]}, got {h} x {w}")
    return _one_scan(x, x_dbl, A, dt_weight, dt_bias, D, z, codes, table, h, w, merge, None)


CONTRACT = Contract("scan_paths", TENSORS, SIZES, check_settings)
BACKWARD_CONTRACT = Contract("scan_paths_backward", TENSORS | SAVED, SIZES, check_backward)


def _fake(call: ScanCall, *, backend: str | None) -> tuple[Tensor, Tensor]:
    saves = call.save_states and backends.saves_states("scan_paths", backend, call)
    states = call.x.new_empty(call.states_size if saves else 0, dtype=torch.float32)
    return call.x.new_empty(call.output_shape), states


implement("scan_paths", ScanCall, CONTRACT, _fake)
implement("scan_paths_backward", ScanCall, BACKWARD_CONTRACT, fake_gradients)
register(Derivative("scan_paths", ScanCall, reference.scan_paths, outputs=1, saved=1))
autocast_activations("scan_paths", activations=(0, 1, 6))


def _papers_flops(x, x_dbl, A, dt_weight, dt_bias, D, z, codes, table, *args) -> int:  # type: ignore
    return scan_flops(x, A, dt_weight, codes, table, papers=True)


@flop_formula("scan_paths", _papers_flops)
def _flops(x, x_dbl, A, dt_weight, dt_bias, D, z, codes, table, *args, **kwargs) -> int:  # type: ignore
    return scan_flops(x, A, dt_weight, codes, table)
