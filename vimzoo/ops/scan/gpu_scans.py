"""Launch planning shared by the Triton and CUDA scans: `scan_paths` and `selective_scan`, forward and backward.

Programs that run at the same time never add to the same memory. Each direction writes an output of its own, and each
block of channels its own gradients of the rows, both in float32. They are summed afterwards in a fixed order, so that
results do not depend on scheduling. A batch is cut into slices of images whose partial results fit `SCRATCH_BYTES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..backends import Unsupported
from ..paths.path import kernel_table, tokens_from_codes
from .call import CHUNK, CarriedCall, PathsCall, ScanCall, SelectiveCall

MOST_PACKED = 7
"""Directions whose closed forms fit one int32, four bits each; more get a table."""
SCRATCH_BYTES = 512 * 2**20
"""Limit on the partial results of one launch; a batch that needs more is run in slices of images."""


def image_slices(batch: int, bytes_per_image: int) -> list[tuple[int, int]]:
    """``(first, last + 1)`` of slices of images whose partial results fit `SCRATCH_BYTES`; shapes alone decide."""
    size = max(1, min(batch, SCRATCH_BYTES // max(1, bytes_per_image)))
    return [(first, min(first + size, batch)) for first in range(0, batch, size)]


def _dense(parameter: Tensor | None) -> Tensor | None:
    return parameter if parameter is None or parameter.stride(-1) == 1 else parameter.contiguous()


@dataclass
class Gradients:
    """Memory for what one backward launch returns, all float32 but dx (where each token is written once), dz and the
    gradient of delta."""

    dx: Tensor
    dx_axes: str
    sums: dict[str, Tensor]
    """dA ``(B, K, D, N)``, dW ``(B, K, D, R)``, dbias and dD ``(B, K, D)``."""
    d_dt: Tensor
    """Of the rows ``(parts, B, L, K, R + 2 N)``, or of delta ``(B, D, L)``."""
    d_dt_axes: str
    dB: Tensor | None = None
    dC: Tensor | None = None
    """``(parts, B, G, N, L)``, where B and C are not part of the rows."""
    dz: Tensor | None = None
    d_initial: Tensor | None = None
    """``(B, K, D, N)``, of the states before the first step."""
    total: Tensor | None = None
    """``(B, K, L, D)``: each direction's output, where the gate multiplies their sum and dz is computed later."""


def part_strides(gradients: Gradients) -> tuple[int, int]:
    """Items from one part's gradients of the rows, and of B and C, to the next part's; 0 where there are no parts."""
    rows, B = gradients.d_dt if "p" in gradients.d_dt_axes else None, gradients.dB
    return 0 if rows is None else rows.stride(0), 0 if B is None else B.stride(0)


@dataclass
class Walk:
    """A scan as the kernels see it: tensors, the axes they have, and sizes.

    With a ``rank``, ``dt`` holds rows ``[dt | B | C]`` or ``[dt | B]`` (`scan_paths`); otherwise it is delta, and B and
    C are given (`selective_scan`).
    """

    x: Tensor
    x_axes: str
    dt: Tensor
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
    without_C: bool = False
    initial: Tensor | None = None
    """``(B, K, D, N)``, the states before the first step; zero if not given."""

    @staticmethod
    def check_paths(call: PathsCall) -> None:
        """Check what all GPU kernels require of a call of `scan_paths`.

        Raises:
            Unsupported: there are no columns to project the step size from, or no states, or states pass through a map
                without tokens.
        """
        if not call.rank or not call.d_state:
            raise Unsupported(f"{call.rank} dt columns and {call.d_state} states")
        if isinstance(call, CarriedCall) and call.steps and not call.length:
            raise Unsupported("states of a map without tokens")

    @classmethod
    def of_paths(cls, call: PathsCall, without_C: bool = False) -> Walk:
        """The walk of `scan_paths`; see `check_paths`. Rows without C get one unless the kernels do ``without_C``."""
        cls.check_paths(call)
        without_C &= call.gives_states
        x_dbl, table = call.x_dbl if without_C else call.rows, call.table
        if table is None and call.directions > MOST_PACKED:
            table = tokens_from_codes(call.codes, None, call.height, call.width)
        if table is not None:
            table = kernel_table(table, call.length, call.x.device)
        return cls(
            x=call.x, x_axes="blkd" if call.own_inputs else "bld",
            dt=x_dbl if x_dbl.stride(-1) == 1 else x_dbl.contiguous(), dt_axes="blkd",
            A=call.A, weight=call.dt_weight, bias=_dense(call.dt_bias), D=_dense(call.D),
            directions=call.directions, grid=(call.height, call.width), steps=call.steps,
            states=call.d_state, rank=call.rank, table=table, without_C=without_C,
            packed=sum(code << 4 * k for k, code in enumerate(call.codes)) if table is None else 0,
        )  # fmt: skip

    @staticmethod
    def check_sequence(call: SelectiveCall) -> None:
        """Check what all GPU kernels require of a call of `selective_scan`.

        Raises:
            Unsupported: A is complex, B or C is constant, or there are no states.
        """
        if call.A.is_complex():
            raise Unsupported("complex A")
        if call.B.dim() == 2 or call.C.dim() == 2:
            raise Unsupported("constant B or C")
        if not call.d_state:
            raise Unsupported("no states")

    @classmethod
    def of_sequence(cls, call: SelectiveCall) -> Walk:
        """The walk of `selective_scan`; see `check_sequence`."""
        cls.check_sequence(call)
        B, C = (m.unsqueeze(1) if m.dim() == 3 else m for m in (call.B, call.C))
        bias, D = (None if p is None else _dense(p.unsqueeze(0)) for p in (call.delta_bias, call.D))
        return cls(
            x=call.u, x_axes="bdl", dt=call.delta, dt_axes="bdl", A=call.A.unsqueeze(0), weight=None, bias=bias, D=D,
            directions=1, grid=(1, call.length), steps=call.length, states=call.d_state, B=B, C=C,
            groups=call.groups, softplus=call.delta_softplus,
        )  # fmt: skip

    @property
    def batch(self) -> int:
        """Images."""
        return self.x.shape[0]

    @property
    def channels(self) -> int:
        """Channels."""
        return self.x.shape[self.x_axes.index("d")]

    def images(self, first: int, last: int) -> Walk:
        """The same for a part of the images."""
        initial = None if self.initial is None else self.initial[first:last]
        return replace(self, x=self.x[first:last], dt=self.dt[first:last], initial=initial)

    def new_total(self) -> Tensor:
        """Float32 memory for each direction's output by token, ``(B, K, L, D)``; zero where it will be added to."""
        new = self.x.new_empty if self.table is None else self.x.new_zeros
        return new((self.batch, self.directions, self.x.shape[1], self.channels), dtype=torch.float32)


class Kernels(ABC):
    """The four kernels of a backend, loaded."""

    reads_rows_without_C = False

    @abstractmethod
    def parts(self, walk: Walk) -> int:
        """Blocks into which a backward pass cuts the channels of a group; each leaves sums of its own."""

    @abstractmethod
    def forward(
        self, walk: Walk, *, out: Tensor | None = None, out_axes: str = "bld", z: Tensor | None = None,
        z_axes: str = "bld", total: Tensor | None = None, states: Tensor | None = None, last: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Scan: gated into ``out``, or by direction into ``total (B, K, L, D)``.

        Args:
            walk: the scan.
            out, z: output and gate, whose axes are ``out_axes`` and ``z_axes``; ``t`` stands for steps of a path.
            total: instead of ``out``: memory for each direction's output.
            states, last: memory for the saved states and the last one, where wanted.
        """

    @abstractmethod
    def backward(
        self, walk: Walk, grad: Tensor, grad_axes: str, states: Tensor, to: Gradients, z: Tensor | None,
        z_axes: str = "bld", grad_last: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Scan backwards, and write the gradients ``to`` memory that is given."""

    @abstractmethod
    def finish_merged(self, total: Tensor, z: Tensor | None, out: Tensor) -> None:
        """Sum ``total (B, K, L, D)`` over K, gate, and write ``out``."""

    @abstractmethod
    def gate_backward(self, grad: Tensor, total: Tensor, z: Tensor, dz: Tensor) -> None:
        """Gradient of the gate over the sum of ``total (B, K, L, D)``."""

    def merged(
        self, walk: Walk, z: Tensor | None, out: Tensor, states: Tensor | None, last: Tensor | None = None
    ) -> None:
        """Scan all directions, add them up and gate."""
        total = walk.new_total()
        self.forward(walk, total=total, states=states, last=last)
        self.finish_merged(total, z, out)

    def saved_or_new_states(self, walk: Walk, states: Tensor, size: int) -> Tensor:
        """The states that a forward pass saved, or, where it saved none, the result of a scan for them alone."""
        if states.numel():
            return states.contiguous()
        states = walk.x.new_empty(size, dtype=torch.float32)
        self.forward(walk, states=states)
        return states


Require = Callable[..., Kernels]
"""Returns kernels that take the given activations; raises `Unsupported` where there are none."""


def _by_image(states: Tensor, batch: int) -> Tensor:
    """Saved states ``(B, floats)``."""
    return states.view(batch, states.numel() // batch)


def scan_paths(require: Require, call: ScanCall) -> tuple[Tensor, Tensor]:
    """`vimzoo.ops.scan_paths` and, if wanted, the states before every `CHUNK` steps."""
    return _forward(require, call)


def scan_carried(require: Require, call: CarriedCall) -> tuple[Tensor, Tensor, Tensor]:
    """The same from given states; the second output are the states after the last step."""
    initial = call.initial(torch.float32).contiguous()
    last = torch.empty_like(initial) if call.steps else initial.clone()
    out, states = _forward(require, call, initial, last)
    return out, last, states


def _forward(
    require: Require, call: PathsCall, initial: Tensor | None = None, final: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    x, z, merge = call.x, call.z, call.merge
    kernels = require(x, call.x_dbl, z)
    walk = replace(Walk.of_paths(call, kernels.reads_rows_without_C), initial=initial)
    out = x.new_empty(call.output_shape)
    states = x.new_empty(call.states_size if call.save_states else 0, dtype=torch.float32)
    if not out.numel():
        return out, states
    # one closed-form path writes each token once; several, or a path that may come back to a token, need float32 sums
    sums = merge and (walk.directions > 1 or walk.table is not None)
    bytes_of_image = 4 * walk.directions * call.length * call.channels if sums else 0
    for first, last in image_slices(call.batch, bytes_of_image):
        part, gate = walk.images(first, last), None if z is None else z[first:last]
        kept = _by_image(states, call.batch)[first:last] if call.save_states else None
        ends = None if final is None else final[first:last]
        if sums:
            kernels.merged(part, gate, out[first:last], kept, ends)
        else:
            axes = "bld" if merge else "bktd"
            kernels.forward(part, out=out[first:last], out_axes=axes, z=gate, states=kept, last=ends)
    return out, states


def scan_paths_backward(require: Require, call: ScanCall, grad: Tensor, states: Tensor) -> tuple[Tensor, ...]:
    """Gradients of `scan_paths`."""
    return _backward(require, call, grad, states)


def scan_carried_backward(
    require: Require, call: CarriedCall, grad: Tensor, grad_last: Tensor | None, states: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of `scan_carried`."""
    last = (
        call.x.new_zeros(call.state_shape, dtype=torch.float32)
        if grad_last is None
        else grad_last.contiguous()
    )
    d_initial = torch.empty_like(last) if call.steps else last.clone()
    return call.with_initial(_backward(require, call, grad, states, last, d_initial), d_initial)


def _backward(
    require: Require,
    call: PathsCall,
    grad: Tensor,
    states: Tensor,
    grad_last: Tensor | None = None,
    d_initial: Tensor | None = None,
) -> tuple[Tensor, ...]:
    x, x_dbl, z = call.x, call.x_dbl, call.z
    kernels = require(grad, x, x_dbl, z)
    walk = Walk.of_paths(call, kernels.reads_rows_without_C)
    if isinstance(call, CarriedCall):
        walk.initial = call.initial(torch.float32).contiguous()
    if not grad.numel():
        return call.zeros()[:7]
    batch, length, channels, K = call.batch, call.length, call.channels, walk.directions
    f32: dict[str, Any] = {"dtype": torch.float32}
    dx, dx_dbl = x.new_empty(x.shape), x_dbl.new_empty(x_dbl.shape)
    dz = None if z is None else x.new_empty(z.shape)
    sums = {
        name: x.new_zeros((K, channels, *tail), **f32)
        for name, tail in {"dA": (walk.states,), "dW": (walk.rank,), "dbias": (), "dD": ()}.items()
    }
    states = _by_image(kernels.saved_or_new_states(walk, states, call.states_size), batch)
    parts, columns = kernels.parts(walk), walk.dt.shape[-1]
    # per image: outputs and gradients of x by direction, each part's gradients of rows, and one chunk of states
    per_image = 4 * K * (length * (2 * channels + parts * columns) + channels * walk.states * CHUNK)
    # each item of dx gets one value, which can be rounded at once; otherwise directions are summed in float32
    written_once = walk.table is None and (call.own_inputs or K == 1)
    new = x.new_empty if walk.table is None else x.new_zeros
    for first, last in image_slices(batch, per_image):
        part, images = walk.images(first, last), slice(first, last)
        wide = (last - first, length, K, channels)
        to = Gradients(
            dx=dx[images].view(wide) if written_once else new(wide, **f32), dx_axes="blkd",
            sums={name: x.new_empty((last - first, *total.shape), **f32) for name, total in sums.items()},
            d_dt=new((kernels.parts(part), last - first, length, K, columns), **f32), d_dt_axes="pblkd",
            d_initial=None if d_initial is None else d_initial[images],
        )  # fmt: skip
        ends = None if grad_last is None else grad_last[images]
        gate = None
        if z is not None and dz is not None:
            gate = z[images]
            if K == 1 and walk.table is None:
                to.dz = dz[images]
            else:
                to.total = part.new_total()
        axes = "bld" if call.merge else "bktd"
        kernels.backward(part, grad[images], axes, states[images], to, gate, grad_last=ends)
        if gate is not None and dz is not None and to.total is not None:
            kernels.gate_backward(grad[images], to.total, gate, dz[images])
        if not written_once:
            dx[images] = to.dx if call.own_inputs else to.dx.sum(2)
        rows = to.d_dt[..., : x_dbl.shape[-1]].sum(0)
        dx_dbl[images] = rows if x_dbl.shape[2] == K else rows.sum(2, keepdim=True)
        for name, total in sums.items():
            total += to.sums[name].sum(0)
    return call.gradients(dx=dx, dx_dbl=dx_dbl, dz=dz, **sums)


def selective_scan(require: Require, call: SelectiveCall) -> tuple[Tensor, Tensor, Tensor]:
    """`vimzoo.ops.selective_scan`: y, the last state, and, if wanted, the states before every `CHUNK` steps."""
    u, z = call.u, call.z
    kernels = require(u, call.delta, call.B, call.C, z)
    walk = Walk.of_sequence(call)
    out = u.new_empty(u.shape)
    last = u.new_zeros((call.batch, call.channels, call.d_state), dtype=torch.float32)
    states = u.new_empty(call.states_size if call.save_states else 0, dtype=torch.float32)
    if out.numel():
        kept = states if call.save_states else None
        kernels.forward(walk, out=out, out_axes="bdl", z=z, z_axes="bdl", states=kept, last=last)
    return out, last, states


def selective_scan_backward(
    require: Require, call: SelectiveCall, grad: Tensor, grad_last: Tensor | None, states: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of `selective_scan`."""
    u, z = call.u, call.z
    kernels = require(grad, u, call.delta, call.B, call.C, z)
    walk = Walk.of_sequence(call)
    if not grad.numel():
        return call.zeros()
    f32: dict[str, Any] = {"dtype": torch.float32}
    matrix = (kernels.parts(walk), call.batch, call.groups, call.d_state, call.length)
    dB, dC = (u.new_empty(matrix, **f32) for _ in range(2))
    tails: dict[str, tuple[int, ...]] = {"dA": (call.d_state,), "dW": (0,), "dbias": (), "dD": ()}
    to = Gradients(
        dx=u.new_empty(u.shape), dx_axes="bdl", d_dt=u.new_empty(u.shape), d_dt_axes="bdl", dB=dB, dC=dC,
        sums={name: u.new_empty((call.batch, 1, call.channels, *tail), **f32) for name, tail in tails.items()},
        dz=None if z is None else u.new_empty(u.shape),
    )  # fmt: skip
    states = kernels.saved_or_new_states(walk, states, call.states_size)
    last = None if grad_last is None else grad_last.float().contiguous()
    kernels.backward(walk, grad, "bdl", states, to, z, "bdl", last)
    totals = {name: to.sums[name].sum((0, 1)) for name in ("dA", "dD", "dbias")}
    return call.gradients(du=to.dx, ddelta=to.d_dt, dB=dB.sum(0), dC=dC.sum(0), dz=to.dz, **totals)
