"""The scan of vision state-space models: K paths over one map, from the narrow projections to the merged output."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from .. import backends, reference
from ..paths.path import COLUMN_REVERSED, ROW, TABLE, ScanPath, checked_paths, path_arguments
from ..runtime.contract import FLOATING, WHOLE, Contract, Given, exactly, like
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
from .call import ScanCall, check_states

_INPUTS = (
    "Tensor x, Tensor x_dbl, Tensor A, Tensor dt_weight, Tensor dt_bias, Tensor? D, Tensor? z, int[] codes, "
    "Tensor? table, SymInt height, SymInt width, bool merge"
)
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
    grid: tuple[int, int] | None = None,
    merge: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Selective scan along K paths over a map, without flips or copies of the tokens.

    For each path k and step t at token p: ``delta = softplus(dt_weight_k dt_p + dt_bias_k)``,
    ``h_t = exp(delta A_k) h_{t-1} + delta B_p x_p``, ``y_p += <C_p, h_t> + D_k x_p``; the sum over paths is then
    multiplied by ``silu(z)``. K = 2 over a sequence is Vim's mixer (Zhu et al. 2024, algorithm 1), K = 4 over a map
    VMamba's SS2D (Liu et al. 2024, section 4.2).

    Args:
        x: ``(B, L, D)`` tokens, channels last, or ``(B, L, K, D)`` where each path has its own.
        x_dbl: ``(B, L, K or 1, R + 2 N)`` rows ``[dt | B | C]`` in token order.
        A: ``(K or 1, D, N)``, real; negative, or the state grows without bound.
        dt_weight, dt_bias, D: ``(K or 1, D, R)``, ``(K or 1, D)``, ``(K or 1, D)``. An axis of 1 is shared by all.
        z: gate ``(B, L, D)``; only with ``merge``.
        paths: K scan paths; -1 in a path's table is a pad, tokens a path leaves out get nothing from it.
        grid: ``(H, W)`` with ``H W = L``; ``(1, L)``, a sequence, if not given.
        merge: sum the paths in token order; otherwise return each in its own order.
        backend: name of the backend to use; chosen automatically if not given.

    Activations (x, x_dbl, z) share float32, bfloat16, float16 or float64; states and sums are float32 (float64).

    Returns:
        ``(B, L, D)`` if ``merge``, else ``(B, K, T, D)`` with T the paths' number of steps; dtype of x.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument's rank, size or dtype does not fit.
        vimzoo.ops.BackendError: a forced backend cannot run it.
    """
    check_tensors(("D", "z"), x=x, x_dbl=x_dbl, A=A, dt_weight=dt_weight, dt_bias=dt_bias, D=D, z=z)
    check_types(*FLAG, merge=merge)
    check_types(*NAME, backend=backend)
    paths = checked_paths(paths)
    length = x.shape[1] if x.dim() > 1 else 0
    grid = (1, length) if grid is None else grid
    sizes = (Integral, torch.SymInt, Tensor)  # tensors while torch.jit.trace records a graph
    if not isinstance(grid, Sequence) or len(grid) != 2 or not all(isinstance(size, sizes) for size in grid):
        raise ValueError(f"grid: expected (H, W) with H * W = {length}, got {grid!r}")
    height, width = grid
    if x.dim() > 1:
        _check_grid(height, width, length)  # before tables are made for it
    codes, table = path_arguments(paths, height, width, x.device)
    return scan_codes(
        x, x_dbl, A, dt_weight, dt_bias, D, z, codes=codes, table=table, height=height, width=width, merge=merge,
        backend=backend,
    )  # fmt: skip


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
        x, x_dbl, A, dt_weight, dt_bias, D, z, merge, backend: as in `scan_paths`.
        codes, table: the paths as `vimzoo.ops.path_arguments` returns them.
        height, width: the grid; ``1 x L`` for a sequence.

    A traced graph holds a table as a constant and refuses maps other than the one that the table was made for.

    Raises:
        ValueError: an argument's rank, size or dtype does not fit.
        vimzoo.ops.BackendError: a forced backend cannot run it.
    """
    if not torch.jit.is_scripting() and torch.jit.is_tracing() and backend is None:
        sizes = torch.as_tensor(height), torch.as_tensor(width)
        grid = [] if table is None else [int(height), int(width)]
        return _traced_scan(x, x_dbl, A, dt_weight, dt_bias, D, z, codes, table, *sizes, merge, grid)
    if not torch.jit.is_scripting():  # noqa: SIM102  TorchScript skips only a block of its own
        if is_inference(x, x_dbl, A, dt_weight, dt_bias, D, z, table):
            return KERNELS["scan_paths"](
                x, x_dbl, A, dt_weight, dt_bias, D, z, codes, table, height, width, merge, False, backend
            )[0]
    y, _ = torch.ops.vimzoo.scan_paths(
        x, x_dbl, A, dt_weight, dt_bias, D, z, codes, table, height, width, merge, torch.is_grad_enabled(), backend
    )  # fmt: skip
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
    y, _ = torch.ops.vimzoo.scan_paths(
        x, x_dbl, A, dt_weight, dt_bias, D, z, codes, table, h, w, merge, torch.is_grad_enabled(), None
    )
    return y


def _check_grid(height: int, width: int, length: int) -> None:
    if height * width != length or height < 0:
        raise ValueError(f"grid: expected (H, W) with H * W = {length}, got ({height}, {width})")


def _check_settings(given: Given) -> None:
    codes, table = given["codes"], given["table"]
    known = COLUMN_REVERSED if table is None else TABLE
    if not codes or not all(ROW <= code <= known for code in codes):
        raise ValueError(
            f"codes: expected one or more of {ROW}..{known}, {'no' if table is None else 'a'} table, got {codes}"
        )
    _check_grid(given["height"], given["width"], given["x"].shape[1])
    if given["z"] is not None and not given["merge"]:
        raise ValueError("z: the gate multiplies the merged output; expected None with merge=False")


def _check_backward(given: Given) -> None:
    _check_settings(given)
    grad, states = given["grad"], given["states"]
    call = ScanCall(*(given[name] for name in ScanCall.names(backward=True)))
    if grad.dim() != len(call.output_shape):
        layout = "(B, L, D)" if call.merge else "(B, K, T, D)"
        raise ValueError(f"grad: expected {layout} with merge={call.merge}, got {tuple(grad.shape)}")
    check_states(states, call.states_size)


_TENSORS = {
    "x": ("B L D | B L K D", FLOATING),
    "A": ("K? D N", FLOATING),
    "dt_weight": ("K? D R", FLOATING),
    "x_dbl": ("B L K? R+2N", like("x")),
    "dt_bias": ("K? D", FLOATING),
    "D": ("K? D", FLOATING),
    "z": ("B L D", like("x")),
    "table": ("K T", WHOLE),
}
_SIZES = {
    "K": lambda given: len(given["codes"]),
    "R+2N": lambda given: given["dt_weight"].shape[-1] + 2 * given["A"].shape[-1],
    "T": lambda given: given["x"].shape[1] if given["table"] is None else given["table"].shape[-1:].numel(),
}
CONTRACT = Contract("scan_paths", _TENSORS, _SIZES, _check_settings)
BACKWARD_CONTRACT = Contract(
    "scan_paths_backward",
    _TENSORS
    | {
        "grad": ("B L D | B K T D", like("x")),
        "states": ("S", exactly(lambda given: torch.float32)),
    },
    _SIZES,
    _check_backward,
)


def _fake(call: ScanCall, *, backend: str | None) -> tuple[Tensor, Tensor]:
    saves = call.save_states and backends.saves_states("scan_paths", backend, call)
    states = call.x.new_empty(call.states_size if saves else 0, dtype=torch.float32)
    return call.x.new_empty(call.output_shape), states


implement("scan_paths", ScanCall, CONTRACT, _fake)
implement("scan_paths_backward", ScanCall, BACKWARD_CONTRACT, fake_gradients)
register(Derivative("scan_paths", ScanCall, reference.scan_paths, outputs=1, saved=1))
autocast_activations("scan_paths", activations=(0, 1, 6))


def _papers_flops(x, x_dbl, A, dt_weight, dt_bias, D, z, codes, table, *args) -> int:  # type: ignore
    """Per element and step: 9 N for the recurrence (VMamba's convention), 1 each for D and the gate, R for the step
    sizes."""
    steps = x[1] if table is None else table[1]
    return x[0] * steps * x[-1] * len(codes) * (9 * A[-1] + 2 + dt_weight[-1])


@flop_formula("scan_paths", _papers_flops)
def _flops(x, x_dbl, A, dt_weight, dt_bias, D, z, codes, table, *args, **kwargs) -> int:  # type: ignore
    """Per element and step: 9 N for the recurrence (VMamba's convention), 2 for D, 2 R for the step sizes."""
    steps = x[1] if table is None else table[1]
    return x[0] * steps * x[-1] * len(codes) * (9 * A[-1] + 2 + 2 * dt_weight[-1])
