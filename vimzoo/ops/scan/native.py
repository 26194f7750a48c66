"""Launchers of the two scans in C: ``kernels/selective_scan/*.c``."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..backends import Unsupported
from ..paths.path import kernel_table
from ..runtime import native, threads
from ..runtime.abi import DTYPES, address
from ..runtime.strides import direction_stride
from .call import CarriedCall, PathsCall, ScanCall, SelectiveCall

_FLOAT32: dict[str, Any] = {"dtype": torch.float32}


def require_paths(call: PathsCall, *gradients: Tensor) -> SimpleNamespace:
    """The library, if it takes this call of ``scan_paths``; see `native.require`."""
    return native.require(*gradients, call.x, call.x_dbl, call.z, states=call.d_state)


def _paths_fields(call: PathsCall) -> tuple[dict[str, int], list[Any]]:
    """The fields that forward and backward share, and the objects that must stay alive while C reads them."""
    x, x_dbl = native.with_unit_last_stride(call.x), native.with_unit_last_stride(call.x_dbl)
    z = None if call.z is None else native.with_unit_last_stride(call.z)
    parameters = (call.A, call.dt_weight, call.dt_bias, call.D)
    A, dt_weight, dt_bias, D = (native.float_parameter(p) for p in parameters)
    codes = (ctypes.c_int64 * call.directions)(*call.codes)
    table = None if call.table is None else kernel_table(call.table, call.length, "cpu")
    (batch, length, *own, channels), directions, rows = x.shape, call.directions, x_dbl.shape[2]
    states, steps = call.d_state, call.steps
    work = (0.6 + 0.08 * states) * batch * directions * steps * channels
    fields = dict(
        batch=batch, length=length, channels=channels, directions=directions, states=states, rank=call.rank,
        steps=steps, height=call.height, width=call.width, merge=int(call.merge), dtype=DTYPES[x.dtype],
        threads=threads.for_work(work), x_directions=directions if own else 1, row_directions=rows,
        x=address(x), x_dbl=address(x_dbl), z=address(z),
        x_b=x.stride(0), x_l=x.stride(1), x_k=x.stride(2) if own else 0,
        r_b=x_dbl.stride(0), r_l=x_dbl.stride(1), r_k=x_dbl.stride(2) if rows > 1 else 0,
        z_b=0 if z is None else z.stride(0), z_l=0 if z is None else z.stride(1),
        A=address(A), dt_weight=address(dt_weight), dt_bias=address(dt_bias),
        D=address(D), without_C=int(call.gives_states),
        A_k=direction_stride(A), w_k=direction_stride(dt_weight), bias_k=direction_stride(dt_bias),
        D_k=direction_stride(D), codes=ctypes.addressof(codes), table=address(table),
    )  # fmt: skip
    return fields, [x, x_dbl, z, A, dt_weight, dt_bias, D, codes, table]


def scan_paths(call: ScanCall) -> tuple[Tensor, Tensor]:
    """`vimzoo.ops.scan_paths`, and the saved states."""
    return _forward(call)


def _forward(
    call: PathsCall, initial: Tensor | None = None, last: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    library = require_paths(call)
    out = call.x.new_empty(call.output_shape)
    states = torch.empty(call.states_size if call.save_states else 0, **_FLOAT32)
    if out.numel() or (last is not None and last.numel()):
        fields, alive = _paths_fields(call)
        library.scan_paths_forward(native.ScanPathsArgs(
            **fields, out=address(out), kept=address(states) if call.save_states else 0, initial=address(initial),
            last=address(last),
        ))  # fmt: skip
        del alive
    return out, states


def scan_carried(call: CarriedCall) -> tuple[Tensor, Tensor, Tensor]:
    """`vimzoo.ops.scan_paths` from given states; those after the last step are the second output."""
    require_paths(call)
    initial = None if call.initial_state is None else call.initial(torch.float32).contiguous()
    last = torch.zeros(call.state_shape, **_FLOAT32)
    out, states = _forward(call, initial, last)
    return out, last, states


def scan_paths_backward(call: ScanCall, grad: Tensor, states: Tensor) -> tuple[Tensor, ...]:
    """Gradients of `scan_paths`."""
    return _backward(call, grad, states)


def scan_carried_backward(
    call: CarriedCall, grad: Tensor, grad_last: Tensor | None, states: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of `scan_carried`."""
    last = None if grad_last is None else grad_last.contiguous()
    d_initial = torch.zeros(call.state_shape, **_FLOAT32)
    return call.with_initial(_backward(call, grad, states, last, d_initial), d_initial)


def _backward(
    call: PathsCall,
    grad: Tensor,
    states: Tensor,
    d_last: Tensor | None = None,
    d_initial: Tensor | None = None,
) -> tuple[Tensor, ...]:
    library = require_paths(call, grad)
    through = grad if d_initial is None else d_initial  # where it is empty, so are all gradients
    states = native.required_states(states, through) if call.states_size else states
    x, K, channels = call.x, call.directions, call.channels
    groups, parts = native.task_split(call.batch, channels)
    # Each item of dx gets one value, which can be rounded at once; otherwise directions are summed in float32. A path
    # that visits every token writes all of both, so that nothing has to be zero before.
    written = call.table is None and through.numel() > 0
    fresh = torch.empty if written else torch.zeros
    once = call.table is None and (call.own_inputs or K == 1)
    dx = fresh(x.shape, dtype=x.dtype if once else torch.float32, device="cpu")
    dx_dbl = fresh((parts, *call.x_dbl.shape), **_FLOAT32)
    dz = None if call.z is None else x.new_empty(call.z.shape)
    sums = {
        name: torch.zeros(groups, K, channels, *tail, **_FLOAT32)
        for name, tail in {"dA": (call.d_state,), "dW": (call.rank,), "dbias": (), "dD": ()}.items()
    }
    if through.numel():
        grad = native.with_unit_last_stride(grad)
        fields, alive = _paths_fields(call)
        library.scan_paths_backward(native.ScanPathsArgs(
            **fields, batch_groups=groups, parts=parts, kept=address(states), dy=address(grad),
            dy_b=grad.stride(0), dy_l=grad.stride(-2), dy_k=0 if call.merge else grad.stride(1),
            dx=address(dx), dx_dbl=address(dx_dbl), dz=address(dz),
            d_last=address(d_last), d_initial=address(d_initial),
            **{name: address(total) for name, total in sums.items()},
        ))  # fmt: skip
        del alive
    totals = {name: total.sum(0) for name, total in sums.items()}
    return call.gradients(dx=dx, dx_dbl=dx_dbl[0] if parts == 1 else dx_dbl.sum(0), dz=dz, **totals)


def require_selective(call: SelectiveCall, *gradients: Tensor) -> SimpleNamespace:
    """The library, if it takes this call of ``selective_scan``; see `native.require`."""
    library = native.require(*gradients, call.u, call.B, call.C, states=call.d_state)
    if call.A.is_complex():
        raise Unsupported("complex A")
    if call.B.dim() == 2 or call.C.dim() == 2:
        raise Unsupported("constant B or C")
    if call.B.dtype != call.C.dtype:
        raise Unsupported("B and C of different dtypes")
    return library


def _strides(name: str, axes: str, tensor: Tensor) -> dict[str, int]:
    return {f"{name}_{axis}": stride for axis, stride in zip(axes, tensor.stride(), strict=True)}


def _selective_fields(call: SelectiveCall) -> tuple[dict[str, int], list[Any]]:
    """As `_paths_fields`."""
    u, groups = call.u, call.groups
    A, D, bias = (native.float_parameter(p) for p in (call.A, call.D, call.delta_bias))
    fields = dict(
        batch=call.batch, channels=call.channels, length=call.length, states=call.d_state, groups=groups,
        dtype=DTYPES[u.dtype], bc_dtype=DTYPES[call.B.dtype], softplus=int(call.delta_softplus),
        threads=threads.for_work((0.8 + 0.08 * call.d_state) * u.numel()),
        A=address(A), D=address(D), delta_bias=address(bias),
    )  # fmt: skip
    alive: list[Any] = [A, D, bias]
    for name, matrix in (("B", call.B), ("C", call.C)):
        matrix = (matrix.unsqueeze(1) if matrix.dim() == 3 else matrix).expand(-1, groups, -1, -1)
        fields |= {name: address(matrix)} | _strides(name, "bgnl", matrix)
        alive.append(matrix)
    for name, tensor in (("u", u), ("delta", call.delta), ("z", call.z)):
        if tensor is not None:
            fields |= {name: address(tensor)} | _strides(name, "bdl", tensor)
    return fields, alive


def selective_scan(call: SelectiveCall) -> tuple[Tensor, Tensor, Tensor]:
    """`vimzoo.ops.selective_scan`: y, the last state, and the saved states."""
    library = require_selective(call)
    out = torch.empty(call.u.shape, dtype=call.u.dtype)
    last_state = torch.zeros(call.batch, call.channels, call.d_state)
    states = torch.empty(call.states_size if call.save_states else 0)
    if out.numel():
        fields, alive = _selective_fields(call)
        library.selective_scan_forward(native.SelectiveScanArgs(
            **fields, out=address(out), last_state=address(last_state),
            kept=address(states) if call.save_states else 0,
        ))  # fmt: skip
        del alive
    return out, last_state, states


def selective_scan_backward(
    call: SelectiveCall, grad: Tensor, grad_last: Tensor | None, states: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of `selective_scan`."""
    library = require_selective(call, grad)
    states = native.required_states(states, grad)
    u, channels, groups = call.u, call.channels, call.groups
    batch_groups, parts = native.task_split(call.batch, channels // groups)
    du, ddelta = (torch.empty(u.shape, dtype=u.dtype) for _ in range(2))
    dz = None if call.z is None else torch.empty(u.shape, dtype=u.dtype)
    matrix = (parts, call.batch, groups, call.d_state, call.length)
    shapes = {"dB": matrix, "dC": matrix, "dA": (batch_groups, channels, call.d_state)}
    shapes |= dict.fromkeys(("dD", "dbias"), (batch_groups, channels))
    sums = {name: torch.zeros(shape) for name, shape in shapes.items()}
    if grad.numel():
        fields, alive = _selective_fields(call)
        last = None if grad_last is None else grad_last.float().contiguous()
        library.selective_scan_backward(native.SelectiveScanArgs(
            **fields, batch_groups=batch_groups, parts=parts, kept=address(states), dy=address(grad),
            **_strides("dy", "bdl", grad), d_last=address(last), du=address(du),
            ddelta=address(ddelta), dz=address(dz),
            **{name: address(total) for name, total in sums.items()},
        ))  # fmt: skip
        del alive
    totals = {name: total.sum(0) for name, total in sums.items()}
    return call.gradients(du=du, ddelta=ddelta, dz=dz, **totals)
