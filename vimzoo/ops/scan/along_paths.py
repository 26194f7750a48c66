"""The scan of vision state-space models: K paths over one map, from the narrow projections to the merged output."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..paths.path import COLUMN_REVERSED, ROW, TABLE, ScanPath, path_arguments
from ..runtime import native, threads
from ..runtime.contract import FLOATING, WHOLE, Contract, Given, exactly, like
from ..runtime.derivatives import Derivative, register
from ..runtime.flops import flop_formula
from ..runtime.library import LIBRARY, autocast_activations, check_tensors, empty, gradients_of, implement
from . import cuda_scans, mamba_ssm_backend, triton_scans

LIBRARY.define(
    "scan_paths(Tensor x, Tensor x_dbl, Tensor A, Tensor dt_weight, Tensor dt_bias, Tensor? D, Tensor? z, "
    "int[] codes, Tensor? table, SymInt height, SymInt width, bool merge, bool save_states, str? backend=None) "
    "-> (Tensor, Tensor)"
)
LIBRARY.define(
    "scan_paths_backward(Tensor grad, Tensor states, Tensor x, Tensor x_dbl, Tensor A, Tensor dt_weight, "
    "Tensor dt_bias, Tensor? D, Tensor? z, int[] codes, Tensor? table, SymInt height, SymInt width, bool merge, "
    "str? backend=None) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
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
        A: ``(K or 1, D, N)``, real and negative.
        dt_weight, dt_bias, D: ``(K or 1, D, R)``, ``(K or 1, D)``, ``(K or 1, D)``. An axis of 1 is shared by all.
        z: gate ``(B, L, D)``; only with ``merge``.
        paths: K scan paths; -1 in a path's table is a pad, tokens a path leaves out get nothing from it.
        grid: ``(H, W)`` with ``H W = L``; ``(1, L)``, a sequence, if not given.
        merge: sum the paths in token order; otherwise return each in its own order.
        backend: insist on a backend.

    Activations (x, x_dbl, z) share float32, bfloat16, float16 or float64; states and sums are float32 (float64).

    Returns:
        ``(B, L, D)`` if ``merge``, else ``(B, K, T, D)`` with T the paths' number of steps; dtype of x.

    Raises:
        TypeError: naming what is no tensor.
        ValueError: naming the argument whose rank, size or dtype does not fit.
        backends.BackendError: if a forced backend cannot run it.
    """
    check_tensors(("D", "z"), x=x, x_dbl=x_dbl, A=A, dt_weight=dt_weight, dt_bias=dt_bias, D=D, z=z)
    paths = tuple(paths)
    if not paths or not all(isinstance(path, ScanPath) for path in paths):
        raise ValueError(f"paths: expected at least one ScanPath, got {paths!r}")
    length = x.shape[1] if x.dim() > 1 else 0
    grid = (1, length) if grid is None else grid
    if not isinstance(grid, Sequence) or len(grid) != 2:
        raise ValueError(f"grid: expected (H, W) with H * W = {length}, got {grid!r}")
    height, width = grid
    if x.dim() > 1:
        _check_grid(height, width, length)  # before tables are made for it
    codes, table = path_arguments(paths, height, width, x.device)
    save = torch.is_grad_enabled()
    return torch.ops.vimzoo.scan_paths(
        x, x_dbl, A, dt_weight, dt_bias, D, z, codes, table, height, width, merge, save, backend
    )[0]


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
    if grad.dim() != (3 if given["merge"] else 4):
        layout = "(B, L, D)" if given["merge"] else "(B, K, T, D)"
        raise ValueError(f"grad: expected {layout} with merge={given['merge']}, got {tuple(grad.shape)}")
    x, codes, table, height, width = (given[name] for name in ("x", "codes", "table", "height", "width"))
    native.check_states(states, _states_size(x, given["A"], codes, _steps(codes, table, height, width), True))


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


def _steps(codes: list[int], table: Tensor | None, height: int, width: int) -> int:
    return height * width if table is None else table.shape[1]


def _output_shape(
    x: Tensor, codes: list[int], table: Tensor | None, height: int, width: int, merge: bool
) -> tuple:
    if merge:
        return (x.shape[0], x.shape[1], x.shape[-1])
    return (x.shape[0], len(codes), _steps(codes, table, height, width), x.shape[-1])


def _states_size(x: Tensor, A: Tensor, codes: list[int], steps: int, save: bool) -> int:
    """`native.states_size`; 0 unless saved."""
    return native.states_size(x.shape[0], len(codes), steps, A.shape[-1], x.shape[-1]) if save else 0


def _reference(x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    *inputs, save_states = args
    codes, table, height, width = inputs[6:10]
    size = _states_size(x, args[1], codes, _steps(codes, table, height, width), save_states)
    # the reference's backward pass starts afresh; ones tell a native one, which needs states, that there are none
    return reference.scan_paths(x, *inputs).contiguous(), x.new_ones(size, dtype=torch.float32)


def _native_arguments(
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
) -> tuple[dict[str, int], list[Any]]:
    """The fields that forward and backward share, and what must stay alive while C reads it."""
    x, x_dbl = native.with_unit_last_stride(x), native.with_unit_last_stride(x_dbl)
    z = None if z is None else native.with_unit_last_stride(z)
    A, dt_weight, dt_bias, D = (native.float_parameter(p) for p in (A, dt_weight, dt_bias, D))  # type: ignore
    c_codes = (ctypes.c_int64 * len(codes))(*codes)
    table = None if table is None else table.to(device="cpu", dtype=torch.int32).contiguous()

    steps = _steps(codes, table, height, width)
    work = (0.6 + 0.08 * A.shape[-1]) * x.shape[0] * len(codes) * steps * x.shape[-1]

    def per_direction(tensor: Tensor | None) -> int:
        return 0 if tensor is None or tensor.shape[0] == 1 else tensor.stride(0)

    fields = dict(
        batch=x.shape[0], length=x.shape[1], channels=x.shape[-1], directions=len(codes), states=A.shape[-1],
        rank=dt_weight.shape[-1], steps=steps, height=height, width=width,
        merge=int(merge), dtype=native.DTYPES[x.dtype], threads=threads.for_work(work),
        x_directions=x.shape[2] if x.dim() == 4 else 1, row_directions=x_dbl.shape[2],
        x=native.address(x), x_dbl=native.address(x_dbl), z=native.address(z),
        x_b=x.stride(0), x_l=x.stride(1), x_k=x.stride(2) if x.dim() == 4 else 0,
        r_b=x_dbl.stride(0), r_l=x_dbl.stride(1), r_k=x_dbl.stride(2) if x_dbl.shape[2] > 1 else 0,
        z_b=0 if z is None else z.stride(0), z_l=0 if z is None else z.stride(1),
        A=native.address(A), dt_weight=native.address(dt_weight), dt_bias=native.address(dt_bias),
        D=native.address(D), A_k=per_direction(A), w_k=per_direction(dt_weight), bias_k=per_direction(dt_bias),
        D_k=per_direction(D), codes=ctypes.addressof(c_codes), table=native.address(table),
    )  # fmt: skip
    return fields, [x, x_dbl, z, A, dt_weight, dt_bias, D, c_codes, table]


def _native(x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    x_dbl, A, z = args[0], args[1], args[5]
    codes, table, height, width, merge, save_states = args[6:12]
    library = native.require(x, x_dbl, z, states=A.shape[-1])
    steps = _steps(codes, table, height, width)
    out = x.new_empty(_output_shape(x, codes, table, height, width, merge))
    states = torch.empty(_states_size(x, A, codes, steps, save_states), dtype=torch.float32)
    if out.numel():
        fields, alive = _native_arguments(x, *args[:11])
        kept = native.address(states) if save_states else 0
        library.scan_paths_forward(native.ScanPathsArgs(**fields, out=native.address(out), kept=kept))
        del alive
    return out, states


def _reference_backward(grad: Tensor, states: Tensor, *args: Any) -> tuple[Tensor, ...]:
    return gradients_of(reference.scan_paths, args, 7, grad)


def _native_backward(grad: Tensor, states: Tensor, *args: Any) -> tuple[Tensor, ...]:
    x, x_dbl, A, dt_weight, dt_bias, D, z = args[:7]
    library = native.require(grad, x, x_dbl, z, states=A.shape[-1])
    states = native.required_states(states, grad)
    batch, length, channels = x.shape[0], x.shape[1], x.shape[-1]
    K, N, R = len(args[7]), A.shape[-1], dt_weight.shape[-1]
    groups, parts = task_split(batch, channels)
    f32: dict[str, Any] = dict(dtype=torch.float32)
    written_once = args[8] is None and (x.shape[2] if x.dim() == 4 else 1) == K  # else summed in float32
    dx = torch.empty(x.shape, dtype=x.dtype) if written_once else torch.zeros(x.shape, **f32)
    dx_dbl = torch.zeros((parts, *x_dbl.shape), **f32)
    dz = empty(x) if z is None else x.new_empty((batch, length, channels))
    sums = [torch.zeros(groups, K, channels, *tail, **f32) for tail in ((N,), (R,), (), ())]
    if grad.numel():
        grad = native.with_unit_last_stride(grad)
        fields, alive = _native_arguments(*args)
        dy_k = 0 if grad.dim() == 3 else grad.stride(1)
        addresses = dict(zip(("dA", "dw", "dbias", "dD"), map(native.address, sums), strict=True))
        library.scan_paths_backward(native.ScanPathsArgs(
            **fields, batch_groups=groups, parts=parts, kept=native.address(states), dy=native.address(grad),
            dy_b=grad.stride(0), dy_l=grad.stride(-2), dy_k=dy_k, dx=native.address(dx),
            dx_dbl=native.address(dx_dbl), dz=native.address(dz) if z is not None else 0, **addresses,
        ))  # fmt: skip
        del alive
    dA, dw, dbias, dD = (total.sum(0) for total in sums)

    def to_parameter(total: Tensor, like: Tensor | None) -> Tensor:
        if like is None:
            return empty(total)
        return (total if like.shape[0] == K else total.sum(0, keepdim=True)).to(like.dtype)

    dx_dbl = dx_dbl[0] if parts == 1 else dx_dbl.sum(0)
    return (
        dx.to(x.dtype), dx_dbl.to(x.dtype), to_parameter(dA, A), to_parameter(dw, dt_weight),
        to_parameter(dbias, dt_bias), to_parameter(dD, D), dz,
    )  # fmt: skip


def task_split(batch: int, channels: int) -> tuple[int, int]:
    """Into how many groups of images and parts of the channels a backward pass is cut: from shapes alone, so that
    sums, and so gradients, do not depend on the number of threads."""
    groups = max(1, min(batch, 32))
    return groups, max(1, min(-(-8 // groups), channels // 24))


_FORWARD: dict[str, Callable[..., Any]] = {
    "cpu": _native,
    "triton": triton_scans.scan_paths,
    "cuda": cuda_scans.scan_paths,
    "mamba_ssm": mamba_ssm_backend.scan_paths,
    "reference": _reference,
}
_BACKWARD: dict[str, Callable[..., Any]] = {
    "cpu": _native_backward,
    "triton": triton_scans.scan_paths_backward,
    "cuda": cuda_scans.scan_paths_backward,
    "mamba_ssm": mamba_ssm_backend.scan_paths_backward,
    "reference": _reference_backward,
}


implement("scan_paths", _FORWARD, CONTRACT)
implement("scan_paths_backward", _BACKWARD, BACKWARD_CONTRACT)


@torch.library.register_fake("vimzoo::scan_paths")
def _(x, x_dbl, A, dt_weight, dt_bias, D, z, codes, table, height, width, merge, save_states, backend=None):  # type: ignore
    CONTRACT.check(x, x_dbl, A, dt_weight, dt_bias, D, z, codes, table, height, width, merge, save_states)
    steps = _steps(codes, table, height, width)
    states = x.new_empty(_states_size(x, A, codes, steps, save_states), dtype=torch.float32)
    return x.new_empty(_output_shape(x, codes, table, height, width, merge)), states


@torch.library.register_fake("vimzoo::scan_paths_backward")
def _(grad, states, x, x_dbl, A, dt_weight, dt_bias, D, z, codes, table, height, width, merge, backend=None):  # type: ignore
    BACKWARD_CONTRACT.check(
        grad, states, x, x_dbl, A, dt_weight, dt_bias, D, z, codes, table, height, width, merge
    )

    def like(tensor: Tensor | None) -> Tensor:
        return empty(x) if tensor is None else tensor.new_empty(tensor.shape)

    return tuple(like(tensor) for tensor in (x, x_dbl, A, dt_weight, dt_bias, D, z))


def _save(ctx: Any, inputs: tuple, output: tuple) -> None:
    *arguments, _save_states, backend = inputs
    ctx.save_for_backward(output[1], *arguments[:7], arguments[8])
    ctx.settings, ctx.backend = (arguments[7], *arguments[9:]), backend
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, grad: Tensor | None, _states: Any) -> tuple:
    if grad is None:
        return (None,) * 14
    states, *tensors, table = ctx.saved_tensors
    codes, height, width, merge = ctx.settings
    grads = torch.ops.vimzoo.scan_paths_backward(
        grad, states, *tensors, codes, table, height, width, merge, ctx.backend
    )
    kept = [None if tensor is None else gradient for tensor, gradient in zip(tensors, grads, strict=True)]
    return (*kept, *(None,) * 7)


register(
    Derivative(
        "scan_paths", reference.scan_paths, tensors=7, outputs=1, saved=1, plain=_reference, save=_save,
        backward=_gradient,
    )
)  # fmt: skip
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
