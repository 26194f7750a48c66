"""Launchers of the Triton scans: `scan_paths` and `selective_scan`, forward and backward.

Partial results (each direction's output, gradients of rows from each block of channels) are written side by side in
float32 and summed in a fixed order, so results do not depend on scheduling.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import triton_backend as backend
from .backends import Unsupported
from .library import empty
from .native import CHUNK
from .scan_path import tokens_from_codes

MOST_PACKED = 7
"""Directions whose closed forms fit one int32, four bits each; more get a table."""
FORWARD_REGISTERS, BACKWARD_REGISTERS = 32, 16
"""States that one lane may hold."""
BACKWARD_FEWEST = 32
"""Channels of a backward program: its lanes are spread over states and channels anyway, and fewer are no faster."""
RETAINED_REGISTERS = 32
"""States of earlier steps that a lane may hold in the backward pass."""
LONGEST_STRETCH = 4
"""Steps that the backward pass unrolls: twice as many compile for twice as long and run no faster."""

Modules = dict[str, ModuleType]


def strides_of(tensor: Tensor | None, axes: str, order: str = "blkd") -> tuple[int, ...]:
    """Strides of ``tensor``, whose axes are ``axes``, in the kernels' ``order``; 0 for an axis it lacks or shares."""
    if tensor is None:
        return (0,) * len(order)
    found = {
        axis: stride if size > 1 or axis == "d" else 0
        for axis, stride, size in zip(axes, tensor.stride(), tensor.shape, strict=True)
    }
    return tuple(found.get(axis, 0) for axis in order)


def _direction_stride(parameter: Tensor | None) -> int:
    return 0 if parameter is None or parameter.shape[0] == 1 else parameter.stride(0)


def _dense(parameter: Tensor | None) -> Tensor | None:
    return parameter if parameter is None or parameter.stride(-1) == 1 else parameter.contiguous()


def stretch_of(values: int) -> int:
    """Steps whose states, ``values`` floats each, a warp holds in registers while it sweeps back."""
    return max(1, min(LONGEST_STRETCH, RETAINED_REGISTERS * 32 // values))


@dataclass
class Gradients:
    """Room for what one backward launch returns, all float32 but dx, d_delta and dz, and dx where paths meet."""

    dx: Tensor
    dx_axes: str
    sums: tuple[Tensor, ...]
    """``(B, K, D, N)``, ``(B, K, D, R)``, ``(B, K, D)``, ``(B, K, D)``."""
    rows: Tensor | None = None
    """``(parts, B, L, K, R + 2 N)``."""
    d_delta: Tensor | None = None
    """``(B, D, L)``, and dB, dC ``(parts, B, G, N, L)``: of `selective_scan`, instead of ``rows``."""
    dB: Tensor | None = None
    dC: Tensor | None = None
    dz: Tensor | None = None
    total: Tensor | None = None
    """``(B, K, L, D)``: each direction's output, where the gate sees their sum and dz is worked out later."""


@dataclass
class Walk:
    """A scan as the kernels see it: tensors, the axes they have, and sizes."""

    x: Tensor
    x_axes: str
    dt: Tensor  # rows [dt | B | C] with a rank, else delta
    dt_axes: str
    A: Tensor
    weight: Tensor | None
    bias: Tensor | None
    D: Tensor | None
    directions: int
    grid: tuple[int, int]
    steps: int
    states: int
    B: Tensor | None = None
    C: Tensor | None = None
    groups: int = 1
    rank: int = 0
    packed: int = 0
    table: Tensor | None = None
    softplus: bool = True

    @property
    def batch(self) -> int:
        """Images."""
        return self.x.shape[0]

    @property
    def channels(self) -> int:
        """Channels."""
        return self.x.shape[self.x_axes.index("d")]

    def states_shape(self) -> tuple[int, ...]:
        """Of the saved states, ``(B, K, chunks, N, D)``."""
        return (self.batch, self.directions, -(-self.steps // CHUNK), self.states, self.channels)

    def tile(self, backward: bool = False) -> tuple[int, int, int, int]:
        """N and R padded, channels of a program, and programs for the channels of a group."""
        registers, fewest = (BACKWARD_REGISTERS, BACKWARD_FEWEST) if backward else (FORWARD_REGISTERS, 8)
        n_pad, r_pad = backend.power_of_two(self.states), backend.power_of_two(self.rank)
        each = self.channels // self.groups
        block = backend.channel_block(
            self.batch * self.directions * self.groups, each, n_pad, registers, fewest
        )
        return n_pad, r_pad, block, -(-each // block)

    def images(self, first: int, last: int) -> Walk:
        """The same for a part of the images."""
        return replace(self, x=self.x[first:last], dt=self.dt[first:last])

    def _inputs(self, z: Tensor | None) -> tuple[Any, ...]:
        return (self.x, self.dt, self.B, self.C, self.A, self.weight, self.bias, self.D, z, self.table)

    def _input_strides(self) -> tuple[Any, ...]:
        narrow = [strides_of(matrix, "bgnl", "blkgn") for matrix in (self.B, self.C)]
        return (strides_of(self.x, self.x_axes), strides_of(self.dt, self.dt_axes), *narrow)

    def _parameter_strides(self) -> tuple[int, ...]:
        A, W = self.A, self.weight
        W_strides = (0, 0, 0) if W is None else (_direction_stride(W), W.stride(1), W.stride(2))
        shared = _direction_stride(self.bias), _direction_stride(self.D)
        return (_direction_stride(A), A.stride(1), A.stride(2), *W_strides, *shared)

    def _sizes(self) -> tuple[int, ...]:
        return (self.channels, self.channels // self.groups, self.steps, *self.grid, self.packed, 1)

    def _constants(self, backward: bool = False) -> dict[str, Any]:
        n_pad, r_pad, block, _ = self.tile(backward)
        aligned = backend.common_alignment(self.dt, self.rank, self.rank + self.states) if self.rank else 1
        return dict(N=self.states, R=self.rank, N_PAD=n_pad, R_PAD=r_pad, BLOCK_D=block, CHUNK=CHUNK,
                    SOFTPLUS=self.softplus, ALIGN=aligned)  # fmt: skip

    def forward(
        self, modules: Modules, *, out: Tensor | None = None, out_axes: str = "bld", z: Tensor | None = None,
        z_axes: str = "bld", total: Tensor | None = None, states: Tensor | None = None, last: Tensor | None = None,
        guard: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Run the forward kernel: into ``out`` or by direction into ``total``, and states where wanted."""
        blocks = self.groups * self.tile()[3]
        backend.launch(
            modules["scan"].scan_forward, (self.batch * blocks, self.directions), self.x.device,
            *self._inputs(z), out, total, states, last, guard,
            *self._input_strides(), strides_of(z, z_axes), strides_of(out, out_axes.replace("t", "l")),
            strides_of(total, "bkld"), *self._parameter_strides(), *self._sizes(),
            **self._constants(), BY_STEP="t" in out_axes,
        )  # fmt: skip

    def backward(
        self, modules: Modules, grad: Tensor, grad_axes: str, states: Tensor, room: Gradients,
        z: Tensor | None, z_axes: str = "bld", grad_last: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Run the backward kernel into ``room``."""
        n_pad, _, block, parts = self.tile(backward=True)
        stretch = stretch_of(n_pad * block)
        grid = (self.batch * self.groups * parts, self.directions)
        scratch = self.x.new_empty((grid[0] * grid[1], CHUNK // stretch, n_pad, block), dtype=torch.float32)
        rows, apart = room.rows, room.dB
        d_dt_strides = strides_of(room.d_delta, "bdl") if rows is None else strides_of(rows, "pblkd")
        backend.launch(
            modules["scan_backward"].scan_backward, grid, self.x.device,
            grad, *self._inputs(z), states, scratch, grad_last,
            room.dx, room.d_delta if rows is None else rows, room.dB, room.dC, *room.sums, room.dz, room.total,
            strides_of(grad, grad_axes.replace("t", "l")), *self._input_strides(), strides_of(z, z_axes),
            strides_of(room.dx, room.dx_axes), d_dt_strides, strides_of(room.dB, "pbgnl", "blkgn"),
            strides_of(room.dC, "pbgnl", "blkgn"), strides_of(room.dz, z_axes), strides_of(room.total, "bkld"),
            *self._parameter_strides(), 0 if rows is None else rows.stride(0), 0 if apart is None else apart.stride(0),
            *self._sizes(), **self._constants(backward=True), STRETCH=stretch, BY_STEP="t" in grad_axes,
            ADD=self.table is not None,
        )  # fmt: skip

    def restored_states(self, modules: Modules, states: Tensor) -> Tensor:
        """States as our forward pass saves them, whoever ran it.

        The reference saves ones, and without gradients in sight nothing is saved: then they are computed now. The
        device itself finds out which, for asking it here would mean waiting for it.
        """
        if states.numel():
            self.forward(modules, states=states, guard=states.flatten()[:1].clone())
            return states
        states = self.x.new_empty(self.states_shape(), dtype=torch.float32)
        self.forward(modules, states=states)
        return states


def _paths(
    x: Tensor, x_dbl: Tensor, A: Tensor, dt_weight: Tensor, dt_bias: Tensor, D: Tensor | None, codes: list[int],
    table: Tensor | None, height: int, width: int,
) -> Walk:  # fmt: skip
    if not dt_weight.shape[-1] or not A.shape[-1]:
        raise Unsupported(f"{dt_weight.shape[-1]} dt columns and {A.shape[-1]} states")
    if table is None and len(codes) > MOST_PACKED:
        table = tokens_from_codes(codes, None, height, width)
    if table is not None:
        table = table.to(device=x.device, dtype=torch.int32).contiguous()
    return Walk(
        x, "blkd" if x.dim() == 4 else "bld", x_dbl if x_dbl.stride(-1) == 1 else x_dbl.contiguous(), "blkd",
        A, dt_weight, _dense(dt_bias), _dense(D), len(codes), (height, width),
        steps=height * width if table is None else table.shape[1], states=A.shape[-1], rank=dt_weight.shape[-1],
        packed=sum(code << 4 * k for k, code in enumerate(codes)) if table is None else 0, table=table,
    )  # fmt: skip


def _slots(walk: Walk) -> Tensor:
    """Float32 memory for each direction's output by token, ``(B, K, L, D)``; zero where it will be added to."""
    new = walk.x.new_empty if walk.table is None else walk.x.new_zeros
    return new((walk.batch, walk.directions, walk.x.shape[1], walk.channels), dtype=torch.float32)


def _elementwise(slots: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and constants of the elementwise kernels over ``(B, K, L, D)``."""
    batch, directions, tokens, channels = slots.shape
    block_d = min(128, backend.power_of_two(channels))
    block_l = max(1, min(1024 // block_d, backend.power_of_two(tokens)))
    grid = (batch * -(-tokens // block_l), -(-channels // block_d))
    return grid, {"SLOTS": directions, "BLOCK_L": block_l, "BLOCK_D": block_d, "warps": 4}


def finish_merged(modules: Modules, slots: Tensor, z: Tensor | None, out: Tensor) -> None:
    """Sum ``slots (B, K, L, D)`` over K, gate, and write ``out``."""
    grid, constants = _elementwise(slots)
    backend.launch(
        modules["scan"].finish_merged, grid, out.device, slots, z, out, strides_of(z, "bld"),
        slots.shape[2], slots.shape[3], **constants,
    )  # fmt: skip


def gate_backward(modules: Modules, grad: Tensor, slots: Tensor, z: Tensor, dz: Tensor) -> None:
    """Gradient of the gate over the sum of ``slots (B, K, L, D)``."""
    grid, constants = _elementwise(slots)
    backend.launch(
        modules["scan_backward"].gate_backward, grid, slots.device, grad, slots, z, dz, strides_of(grad, "bld"),
        strides_of(z, "bld"), slots.shape[2], slots.shape[3], **constants,
    )  # fmt: skip


def scan_paths(
    x: Tensor, x_dbl: Tensor, A: Tensor, dt_weight: Tensor, dt_bias: Tensor, D: Tensor | None, z: Tensor | None,
    codes: list[int], table: Tensor | None, height: int, width: int, merge: bool, save_states: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`vimzoo.ops.scan_paths` and, if ``save_states``, the states before every `CHUNK` steps."""
    modules = backend.require(x, x_dbl, z)
    walk = _paths(x, x_dbl, A, dt_weight, dt_bias, D, codes, table, height, width)
    batch, length, channels, K = x.shape[0], x.shape[1], x.shape[-1], walk.directions
    out = x.new_empty((batch, length, channels) if merge else (batch, K, walk.steps, channels))
    states = x.new_empty(walk.states_shape() if save_states else (0,), dtype=torch.float32)
    if not out.numel():
        return out, states
    sums = merge and (K > 1 or walk.table is not None)
    for first, last in backend.image_slices(batch, K * length * channels * 4 if sums else 0):
        part, gate = walk.images(first, last), None if z is None else z[first:last]
        kept = states[first:last] if save_states else None
        if sums:
            slots = _slots(part)
            part.forward(modules, total=slots, states=kept)
            finish_merged(modules, slots, gate, out[first:last])
        else:
            part.forward(
                modules, out=out[first:last], out_axes="bld" if merge else "bktd", z=gate, states=kept
            )
    return out, states


def scan_paths_backward(
    grad: Tensor, states: Tensor, x: Tensor, x_dbl: Tensor, A: Tensor, dt_weight: Tensor, dt_bias: Tensor,
    D: Tensor | None, z: Tensor | None, codes: list[int], table: Tensor | None, height: int, width: int, merge: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of `scan_paths`: of x, x_dbl, A, dt_weight, dt_bias, D and z."""
    modules = backend.require(grad, x, x_dbl, z)
    walk = _paths(x, x_dbl, A, dt_weight, dt_bias, D, codes, table, height, width)
    batch, length, channels, K = x.shape[0], x.shape[1], x.shape[-1], walk.directions
    dx, dx_dbl = x.new_empty(x.shape), x_dbl.new_empty(x_dbl.shape)
    dz = empty(x) if z is None else x.new_empty(z.shape)
    sums = [
        x.new_zeros((K, channels, *tail), dtype=torch.float32)
        for tail in ((walk.states,), (walk.rank,), (), ())
    ]
    parts, columns = walk.tile(backward=True)[3], x_dbl.shape[-1]
    per_image = 4 * K * (length * (2 * channels + parts * columns) + channels * walk.states * CHUNK)
    slices = backend.image_slices(batch, per_image)
    if grad.numel():
        states = walk.restored_states(modules, states)
    else:
        slices = []
        dx.zero_(), dx_dbl.zero_(), dz.zero_()
    for first, last in slices:
        part, images = walk.images(first, last), slice(first, last)
        own = walk.table is None and (x.dim() == 4 or K == 1)  # every token of dx is written once
        new = x.new_empty if walk.table is None else x.new_zeros
        f32: dict[str, Any] = {"dtype": torch.float32}
        wide = (last - first, length, K, channels)
        room = Gradients(
            dx[images].view(wide) if own else new(wide, **f32), "blkd",
            tuple(x.new_empty((last - first, *total.shape), **f32) for total in sums),
            rows=new((part.tile(backward=True)[3], last - first, length, K, columns), **f32),
        )  # fmt: skip
        if z is not None and K == 1 and walk.table is None:
            room.dz = dz[images]
        elif z is not None:
            room.total = _slots(part)
        gate = None if z is None else z[images]
        part.backward(modules, grad[images], "bld" if merge else "bktd", states[images], room, gate)
        if gate is not None and room.total is not None:
            gate_backward(modules, grad[images], room.total, gate, dz[images])
        if not own:
            dx[images] = room.dx if x.dim() == 4 else room.dx.sum(2)
        assert room.rows is not None
        rows = room.rows.sum(0)
        dx_dbl[images] = rows if x_dbl.shape[2] == K else rows.sum(2, keepdim=True)
        for total, found in zip(sums, room.sums, strict=True):
            total += found.sum(0)

    def to_parameter(total: Tensor, like: Tensor | None) -> Tensor:
        if like is None:
            return empty(x)
        return (total if like.shape[0] == K else total.sum(0, keepdim=True)).to(like.dtype)

    parameters = [to_parameter(total, p) for total, p in zip(sums, (A, dt_weight, dt_bias, D), strict=True)]
    return dx, dx_dbl, *parameters, dz


def _scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
) -> Walk:
    if A.is_complex():
        raise Unsupported("complex A")
    if B.dim() == 2 or C.dim() == 2:
        raise Unsupported("constant B or C")
    if not A.shape[1]:
        raise Unsupported("no states")
    groups = max(m.shape[1] if m.dim() == 4 else 1 for m in (B, C))
    B, C = (m.unsqueeze(1) if m.dim() == 3 else m for m in (B, C))
    bias, D = (None if p is None else _dense(p.unsqueeze(0)) for p in (bias, D))
    return Walk(
        u, "bdl", delta, "bdl", A.unsqueeze(0), None, bias, D, 1, (1, u.shape[2]), u.shape[2], A.shape[1],
        B=B, C=C, groups=groups, softplus=softplus,
    )  # fmt: skip


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, save_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`vimzoo.ops.selective_scan`: y, the last state, and, if ``save_states``, those before every `CHUNK` steps."""
    modules = backend.require(u, delta, B, C, z)
    walk = _scan(u, delta, A, B, C, D, delta_bias, delta_softplus)
    out = u.new_empty(u.shape)
    last = u.new_zeros((u.shape[0], u.shape[1], A.shape[1]), dtype=torch.float32)
    shape = walk.states_shape()
    states = u.new_empty((shape[0], *shape[2:]) if save_states else (0,), dtype=torch.float32)
    if out.numel():
        kept = states if save_states else None
        walk.forward(modules, out=out, out_axes="bdl", z=z, z_axes="bdl", states=kept, last=last)
    return out, last, states


def selective_scan_backward(
    grad: Tensor, grad_last: Tensor | None, states: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None, delta_softplus: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of `selective_scan`: of u, delta, A, B, C, D, z and delta_bias."""
    modules = backend.require(grad, u, delta, B, C, z)
    walk = _scan(u, delta, A, B, C, D, delta_bias, delta_softplus)
    parts, f32 = walk.tile(backward=True)[3], {"dtype": torch.float32}
    narrow = (parts, u.shape[0], walk.groups, A.shape[1], u.shape[2])
    sums = ((u.shape[0], 1, u.shape[1], *tail) for tail in ((A.shape[1],), (0,), (), ()))
    # zeros only where there is nothing to run
    new: Any = u.new_empty if grad.numel() else u.new_zeros
    room = Gradients(
        new(u.shape), "bdl", tuple(new(shape, **f32) for shape in sums), d_delta=new(u.shape),
        dB=new(narrow, **f32), dC=new(narrow, **f32), dz=None if z is None else new(u.shape),
    )  # fmt: skip
    if grad.numel():
        states = walk.restored_states(modules, states)
        last = None if grad_last is None else grad_last.float().contiguous()
        walk.backward(modules, grad, "bdl", states, room, z, "bdl", last)

    def narrow_gradient(total: Tensor | None, like: Tensor) -> Tensor:
        assert total is not None
        total = total.sum(0)
        shared = like.dim() == 3 or like.shape[1] == 1
        total = total.sum(1, keepdim=True) if shared and total.shape[1] > 1 else total
        return total.reshape(like.shape).to(like.dtype)

    def parameter_gradient(total: Tensor, like: Tensor | None) -> Tensor:
        return empty(u) if like is None else total.sum((0, 1)).to(like.dtype)

    dA, _, dbias, dD = room.sums
    assert room.d_delta is not None
    return (
        room.dx, room.d_delta, parameter_gradient(dA, A), narrow_gradient(room.dB, B), narrow_gradient(room.dC, C),
        parameter_gradient(dD, D), empty(u) if room.dz is None else room.dz, parameter_gradient(dbias, delta_bias),
    )  # fmt: skip
