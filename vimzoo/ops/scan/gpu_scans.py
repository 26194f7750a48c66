"""The scans on a GPU, whoever wrote the kernels: `scan_paths` and `selective_scan`, forward and backward.

What a launch gets and what becomes of its partial results is the same for Triton's kernels and for CUDA's: each
direction's output and gradients of rows from each block of channels are written side by side in float32 and summed in a
fixed order, so results do not depend on scheduling; images are taken in slices whose partial results fit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..paths.path import tokens_from_codes
from ..runtime.backends import Unsupported
from ..runtime.library import empty
from ..runtime.native import CHUNK, states_size

MOST_PACKED = 7
"""Directions whose closed forms fit one int32, four bits each; more get a table."""
SCRATCH_BYTES = 512 * 2**20
"""What one launch may use for partial results; more images than fit run one slice after another."""


def image_slices(batch: int, bytes_per_image: int) -> list[tuple[int, int]]:
    """``(first, last + 1)`` of the groups of images whose partial results fit `SCRATCH_BYTES`; shapes alone decide."""
    size = max(1, min(batch, SCRATCH_BYTES // max(1, bytes_per_image)))
    return [(first, min(first + size, batch)) for first in range(0, batch, size)]


def strides_of(tensor: Tensor | None, axes: str, order: str = "blkd") -> tuple[int, ...]:
    """Strides of ``tensor``, whose axes are ``axes``, in the kernels' ``order``; 0 for an axis it lacks or shares."""
    if tensor is None:
        return (0,) * len(order)
    found = {
        axis: stride if size > 1 or axis == "d" else 0
        for axis, stride, size in zip(axes, tensor.stride(), tensor.shape, strict=True)
    }
    return tuple(found.get(axis, 0) for axis in order)


def direction_stride(parameter: Tensor | None) -> int:
    """Items from one direction's part of a parameter ``(K or 1, ...)`` to the next; 0 where all share one."""
    return 0 if parameter is None or parameter.shape[0] == 1 else parameter.stride(0)


def _dense(parameter: Tensor | None) -> Tensor | None:
    return parameter if parameter is None or parameter.stride(-1) == 1 else parameter.contiguous()


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

    def states_size(self) -> int:
        """Floats in the saved states."""
        return states_size(self.batch, self.directions, self.steps, self.states, self.channels)

    def images(self, first: int, last: int) -> Walk:
        """The same for a part of the images."""
        return replace(self, x=self.x[first:last], dt=self.dt[first:last])


class Kernels(ABC):
    """The four kernels of a backend, loaded."""

    @abstractmethod
    def parts(self, walk: Walk) -> int:
        """Blocks into which a backward pass cuts the channels of a group; each leaves sums of its own."""

    @abstractmethod
    def forward(
        self, walk: Walk, *, out: Tensor | None = None, out_axes: str = "bld", z: Tensor | None = None,
        z_axes: str = "bld", total: Tensor | None = None, states: Tensor | None = None, last: Tensor | None = None,
        guard: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Scan: gated into ``out``, or by direction into ``total (B, K, L, D)``; states and the last one where wanted.

        With ``guard``, one float, nothing happens where that is zero on the device.
        """

    @abstractmethod
    def backward(
        self, walk: Walk, grad: Tensor, grad_axes: str, states: Tensor, room: Gradients, z: Tensor | None,
        z_axes: str = "bld", grad_last: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Scan backwards into ``room``."""

    @abstractmethod
    def finish_merged(self, slots: Tensor, z: Tensor | None, out: Tensor) -> None:
        """Sum ``slots (B, K, L, D)`` over K, gate, and write ``out``."""

    @abstractmethod
    def gate_backward(self, grad: Tensor, slots: Tensor, z: Tensor, dz: Tensor) -> None:
        """Gradient of the gate over the sum of ``slots (B, K, L, D)``."""

    def merged(self, walk: Walk, z: Tensor | None, out: Tensor, states: Tensor | None) -> None:
        """Scan all directions, add them up and gate."""
        slots = _slots(walk)
        self.forward(walk, total=slots, states=states)
        self.finish_merged(slots, z, out)

    def restored_states(self, walk: Walk, states: Tensor) -> Tensor:
        """States as our forward pass saves them, whoever ran it.

        The reference saves ones, and without gradients in sight nothing is saved: then they are computed now. The
        device itself finds out which, for asking it here would mean waiting for it.
        """
        if states.numel():
            states = states.contiguous()
            self.forward(walk, states=states, guard=states.flatten()[:1].clone())
            return states
        states = walk.x.new_empty(walk.states_size(), dtype=torch.float32)
        self.forward(walk, states=states)
        return states


Require = Callable[..., Kernels]
"""Kernels that take the given activations; raises `Unsupported` where there are none."""


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


def _by_image(states: Tensor, batch: int) -> Tensor:
    """Saved states ``(B, floats)``."""
    return states.view(batch, states.numel() // batch)


def _slots(walk: Walk) -> Tensor:
    """Float32 memory for each direction's output by token, ``(B, K, L, D)``; zero where it will be added to."""
    new = walk.x.new_empty if walk.table is None else walk.x.new_zeros
    return new((walk.batch, walk.directions, walk.x.shape[1], walk.channels), dtype=torch.float32)


def scan_paths(
    require: Require, x: Tensor, x_dbl: Tensor, A: Tensor, dt_weight: Tensor, dt_bias: Tensor, D: Tensor | None,
    z: Tensor | None, codes: list[int], table: Tensor | None, height: int, width: int, merge: bool, save_states: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`vimzoo.ops.scan_paths` and, if ``save_states``, the states before every `CHUNK` steps."""
    kernels = require(x, x_dbl, z)
    walk = _paths(x, x_dbl, A, dt_weight, dt_bias, D, codes, table, height, width)
    batch, length, channels, K = x.shape[0], x.shape[1], x.shape[-1], walk.directions
    out = x.new_empty((batch, length, channels) if merge else (batch, K, walk.steps, channels))
    states = x.new_empty(walk.states_size() if save_states else 0, dtype=torch.float32)
    if not out.numel():
        return out, states
    sums = merge and (K > 1 or walk.table is not None)
    for first, last in image_slices(batch, K * length * channels * 4 if sums else 0):
        part, gate = walk.images(first, last), None if z is None else z[first:last]
        kept = _by_image(states, batch)[first:last] if save_states else None
        if sums:
            kernels.merged(part, gate, out[first:last], kept)
        else:
            kernels.forward(
                part, out=out[first:last], out_axes="bld" if merge else "bktd", z=gate, states=kept
            )
    return out, states


def scan_paths_backward(
    require: Require, grad: Tensor, states: Tensor, x: Tensor, x_dbl: Tensor, A: Tensor, dt_weight: Tensor,
    dt_bias: Tensor, D: Tensor | None, z: Tensor | None, codes: list[int], table: Tensor | None, height: int,
    width: int, merge: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of `scan_paths`: of x, x_dbl, A, dt_weight, dt_bias, D and z."""
    kernels = require(grad, x, x_dbl, z)
    walk = _paths(x, x_dbl, A, dt_weight, dt_bias, D, codes, table, height, width)
    batch, length, channels, K = x.shape[0], x.shape[1], x.shape[-1], walk.directions
    dx, dx_dbl = x.new_empty(x.shape), x_dbl.new_empty(x_dbl.shape)
    dz = empty(x) if z is None else x.new_empty(z.shape)
    sums = [
        x.new_zeros((K, channels, *tail), dtype=torch.float32)
        for tail in ((walk.states,), (walk.rank,), (), ())
    ]
    parts, columns = kernels.parts(walk), x_dbl.shape[-1]
    per_image = 4 * K * (length * (2 * channels + parts * columns) + channels * walk.states * CHUNK)
    slices = image_slices(batch, per_image)
    if grad.numel():
        states = _by_image(kernels.restored_states(walk, states), batch)
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
            rows=new((kernels.parts(part), last - first, length, K, columns), **f32),
        )  # fmt: skip
        if z is not None and K == 1 and walk.table is None:
            room.dz = dz[images]
        elif z is not None:
            room.total = _slots(part)
        gate = None if z is None else z[images]
        kernels.backward(part, grad[images], "bld" if merge else "bktd", states[images], room, gate)
        if gate is not None and room.total is not None:
            kernels.gate_backward(grad[images], room.total, gate, dz[images])
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
    require: Require, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, save_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`vimzoo.ops.selective_scan`: y, the last state, and, if ``save_states``, those before every `CHUNK` steps."""
    kernels = require(u, delta, B, C, z)
    walk = _scan(u, delta, A, B, C, D, delta_bias, delta_softplus)
    out = u.new_empty(u.shape)
    last = u.new_zeros((u.shape[0], u.shape[1], A.shape[1]), dtype=torch.float32)
    states = u.new_empty(walk.states_size() if save_states else 0, dtype=torch.float32)
    if out.numel():
        kept = states if save_states else None
        kernels.forward(walk, out=out, out_axes="bdl", z=z, z_axes="bdl", states=kept, last=last)
    return out, last, states


def selective_scan_backward(
    require: Require, grad: Tensor, grad_last: Tensor | None, states: Tensor, u: Tensor, delta: Tensor, A: Tensor,
    B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None, delta_softplus: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of `selective_scan`: of u, delta, A, B, C, D, z and delta_bias."""
    kernels = require(grad, u, delta, B, C, z)
    walk = _scan(u, delta, A, B, C, D, delta_bias, delta_softplus)
    parts, f32 = kernels.parts(walk), {"dtype": torch.float32}
    narrow = (parts, u.shape[0], walk.groups, A.shape[1], u.shape[2])
    sums = ((u.shape[0], 1, u.shape[1], *tail) for tail in ((A.shape[1],), (0,), (), ()))
    # zeros only where there is nothing to run
    new: Any = u.new_empty if grad.numel() else u.new_zeros
    room = Gradients(
        new(u.shape), "bdl", tuple(new(shape, **f32) for shape in sums), d_delta=new(u.shape),
        dB=new(narrow, **f32), dC=new(narrow, **f32), dz=None if z is None else new(u.shape),
    )  # fmt: skip
    if grad.numel():
        states = kernels.restored_states(walk, states)
        last = None if grad_last is None else grad_last.float().contiguous()
        kernels.backward(walk, grad, "bdl", states, room, z, "bdl", last)

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
