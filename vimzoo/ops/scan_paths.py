"""The scan of vision state-space models: K paths over one map, from the narrow projections to the merged output."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import cuda_scans, mamba_ssm_backend, native, reference, threads, triton_scans
from .derivatives import Derivative, register
from .flops import flop_formula
from .library import (
    LIBRARY,
    autocast_activations,
    check,
    check_same_dtype,
    check_tensors,
    empty,
    gradients_of,
    implement,
)
from .scan_path import ScanPath, path_arguments

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
    grid = (1, x.shape[1]) if grid is None and x.dim() > 1 else grid
    _check_arguments(x, x_dbl, A, dt_weight, dt_bias, D, z, paths, grid, merge)
    height, width = grid  # type: ignore[misc]
    codes, table = path_arguments(paths, height, width, x.device)
    save = torch.is_grad_enabled()
    return torch.ops.vimzoo.scan_paths(
        x, x_dbl, A, dt_weight, dt_bias, D, z, codes, table, height, width, merge, save, backend
    )[0]


def _check_arguments(
    x: Tensor,
    x_dbl: Tensor,
    A: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    paths: tuple[ScanPath, ...],
    grid: tuple[int, int] | None,
    merge: bool,
) -> None:
    check(x.dim() in (3, 4), "x", "(B, L, D) or (B, L, K, D)", x)
    check(x.is_floating_point(), "x", "a floating-point tensor", x)
    directions = len(paths)
    if not directions or not all(isinstance(path, ScanPath) for path in paths):
        raise ValueError(f"paths: expected at least one ScanPath, got {paths!r}")
    batch, length, channels = x.shape[0], x.shape[1], x.shape[-1]
    if x.dim() == 4:
        check(x.shape[2] == directions, "x", "{} directions on axis 2, one per path", x, directions)
    check(A.dim() == 3 and A.shape[1] == channels, "A", "(K or 1, {}, N)", A, channels)
    check(not A.is_complex(), "A", "real values (complex ones: selective_scan)", A)
    check(
        dt_weight.dim() == 3 and dt_weight.shape[1] == channels,
        "dt_weight",
        f"(K or 1, {channels}, R)",
        dt_weight,
    )
    columns = dt_weight.shape[-1] + 2 * A.shape[-1]
    fits = x_dbl.dim() == 4 and x_dbl.shape[:2] == (batch, length) and x_dbl.shape[3] == columns
    check(fits, "x_dbl", "({}, {}, K or 1, R + 2 N = {})", x_dbl, batch, length, columns)
    for name, tensor in (("dt_bias", dt_bias), ("D", D)):
        if tensor is not None:
            check(tensor.dim() == 2 and tensor.shape[1] == channels, name, "(K or 1, {})", tensor, channels)
    shared = (
        ("A", A, 0),
        ("dt_weight", dt_weight, 0),
        ("dt_bias", dt_bias, 0),
        ("D", D, 0),
        ("x_dbl", x_dbl, 2),
    )
    for name, tensor, axis in shared:
        if tensor is not None:
            check(
                tensor.shape[axis] in (1, directions), name, f"{directions} paths or 1 on axis {axis}", tensor
            )
    check_same_dtype("x_dbl", x_dbl, "x", x)
    if z is not None:
        check(z.shape == (batch, length, channels), "z", "({}, {}, {})", z, batch, length, channels)
        check_same_dtype("z", z, "x", x)
        if not merge:
            raise ValueError("z: the gate multiplies the merged output; expected None with merge=False")
    if grid is None or grid[0] * grid[1] != length:
        raise ValueError(f"grid: expected (H, W) with H * W = {length}, got {grid}")


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
    library = native.require(x, x_dbl, z)
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
    library = native.require(grad, x, x_dbl, z)
    native.require_states(states, grad)
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


implement("scan_paths", _FORWARD, inputs=13)
implement("scan_paths_backward", _BACKWARD, inputs=14)


@torch.library.register_fake("vimzoo::scan_paths")
def _(x, x_dbl, A, dt_weight, dt_bias, D, z, codes, table, height, width, merge, save_states, backend=None):  # type: ignore
    steps = _steps(codes, table, height, width)
    states = x.new_empty(_states_size(x, A, codes, steps, save_states), dtype=torch.float32)
    return x.new_empty(_output_shape(x, codes, table, height, width, merge)), states


@torch.library.register_fake("vimzoo::scan_paths_backward")
def _(grad, states, x, x_dbl, A, dt_weight, dt_bias, D, z, *args, backend=None):  # type: ignore
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
