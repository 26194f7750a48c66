"""Launchers of the Triton scans: `gpu_scans` over the kernels of ``kernels/selective_scan/triton_*.py``."""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

from torch import Tensor, float32

from ..runtime import triton_backend as backend
from ..runtime.strides import direction_stride, strides_of
from . import gpu_scans
from .call import CHUNK, PathsCall, SelectiveCall
from .gpu_scans import Gradients, Kernels, Walk

FORWARD_REGISTERS, BACKWARD_REGISTERS = 32, 16
"""States that one lane may hold."""
BACKWARD_FEWEST = 32
"""Channels of a backward program: its lanes are spread over states and channels anyway, and fewer are no faster."""
RETAINED_REGISTERS = 32
"""States of earlier steps that a lane may hold in the backward pass."""
LONGEST_STRETCH = 4
"""Steps that the backward pass unrolls: twice as many compile for twice as long and run no faster."""


def stretch_of(values: int) -> int:
    """Steps whose states, ``values`` floats each, a warp holds in registers while it sweeps back."""
    return max(1, min(LONGEST_STRETCH, RETAINED_REGISTERS * 32 // values))


def tile(walk: Walk, backward: bool = False) -> tuple[int, int, int, int]:
    """N and R padded, channels of a program, and programs for the channels of a group."""
    registers, fewest = (BACKWARD_REGISTERS, BACKWARD_FEWEST) if backward else (FORWARD_REGISTERS, 8)
    n_pad, r_pad = backend.power_of_two(walk.states), backend.power_of_two(walk.rank)
    each = walk.channels // walk.groups
    block = backend.channel_block(walk.batch * walk.directions * walk.groups, each, n_pad, registers, fewest)
    return n_pad, r_pad, block, -(-each // block)


def _inputs(walk: Walk, z: Tensor | None) -> tuple[Any, ...]:
    return (walk.x, walk.dt, walk.B, walk.C, walk.A, walk.weight, walk.bias, walk.D, z, walk.table)


def _input_strides(walk: Walk) -> tuple[Any, ...]:
    narrow = [strides_of(matrix, "bgnl", "blkgn") for matrix in (walk.B, walk.C)]
    return (strides_of(walk.x, walk.x_axes), strides_of(walk.dt, walk.dt_axes), *narrow)


def _parameter_strides(walk: Walk) -> tuple[int, ...]:
    A, W = walk.A, walk.weight
    W_strides = (0, 0, 0) if W is None else (direction_stride(W), W.stride(1), W.stride(2))
    shared = direction_stride(walk.bias), direction_stride(walk.D)
    return (direction_stride(A), A.stride(1), A.stride(2), *W_strides, *shared)


def _sizes(walk: Walk) -> tuple[int, ...]:
    return (walk.channels, walk.channels // walk.groups, walk.steps, *walk.grid, walk.packed, 1)


def _constants(walk: Walk, backward: bool = False) -> dict[str, Any]:
    n_pad, r_pad, block, _ = tile(walk, backward)
    rank, states = walk.rank, walk.states
    columns = (rank,) if walk.without_C else (rank, rank + states)
    aligned = backend.common_alignment(walk.dt, *columns) if rank else 1
    return dict(N=states, R=rank, N_PAD=n_pad, R_PAD=r_pad, BLOCK_D=block, CHUNK=CHUNK, SOFTPLUS=walk.softplus,
                ALIGN=aligned, NO_C=walk.without_C)  # fmt: skip


def _elementwise(total: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and constants of the elementwise kernels over ``(B, K, L, D)``."""
    batch, directions, tokens, channels = total.shape
    block_d = min(128, backend.power_of_two(channels))
    block_l = max(1, min(1024 // block_d, backend.power_of_two(tokens)))
    grid = (batch * -(-tokens // block_l), -(-channels // block_d))
    return grid, {"SLOTS": directions, "BLOCK_L": block_l, "BLOCK_D": block_d, "warps": 4}


class TritonKernels(Kernels):
    """Triton's kernels, by module."""

    reads_rows_without_C = True

    def __init__(self, modules: dict[str, ModuleType]) -> None:
        self.modules = modules

    @classmethod
    def require(cls, *tensors: Tensor | None) -> TritonKernels:
        """Kernels for these activations; see `triton_backend.require`."""
        return cls(backend.require(*tensors))

    def parts(self, walk: Walk) -> int:
        return tile(walk, backward=True)[3]

    def forward(
        self, walk: Walk, *, out: Tensor | None = None, out_axes: str = "bld", z: Tensor | None = None,
        z_axes: str = "bld", total: Tensor | None = None, states: Tensor | None = None, last: Tensor | None = None,
    ) -> None:  # fmt: skip
        blocks = walk.groups * tile(walk)[3]
        backend.launch(
            self.modules["scan"].scan_forward, (walk.batch * blocks, walk.directions), walk.x.device,
            *_inputs(walk, z), out, total, states, walk.initial, last,
            *_input_strides(walk), strides_of(z, z_axes), strides_of(out, out_axes.replace("t", "l")),
            strides_of(total, "bkld"), *_parameter_strides(walk), *_sizes(walk),
            **_constants(walk), BY_STEP="t" in out_axes,
        )  # fmt: skip

    def backward(
        self, walk: Walk, grad: Tensor, grad_axes: str, states: Tensor, to: Gradients, z: Tensor | None,
        z_axes: str = "bld", grad_last: Tensor | None = None,
    ) -> None:  # fmt: skip
        n_pad, _, block, parts = tile(walk, backward=True)
        stretch = stretch_of(n_pad * block)
        grid = (walk.batch * walk.groups * parts, walk.directions)
        scratch = walk.x.new_empty((grid[0] * grid[1], CHUNK // stretch, n_pad, block), dtype=float32)
        sums = (to.sums[name] for name in ("dA", "dW", "dbias", "dD"))
        backend.launch(
            self.modules["scan_backward"].scan_backward, grid, walk.x.device,
            grad, *_inputs(walk, z), states, scratch, grad_last,
            to.dx, to.d_dt, to.dB, to.dC, *sums, to.dz, to.total, to.d_initial,
            strides_of(grad, grad_axes.replace("t", "l")), *_input_strides(walk), strides_of(z, z_axes),
            strides_of(to.dx, to.dx_axes), strides_of(to.d_dt, to.d_dt_axes), strides_of(to.dB, "pbgnl", "blkgn"),
            strides_of(to.dC, "pbgnl", "blkgn"), strides_of(to.dz, z_axes), strides_of(to.total, "bkld"),
            *_parameter_strides(walk), *gpu_scans.part_strides(to),
            *_sizes(walk), **_constants(walk, backward=True), STRETCH=stretch, BY_STEP="t" in grad_axes,
            ADD=walk.table is not None,
        )  # fmt: skip

    def finish_merged(self, total: Tensor, z: Tensor | None, out: Tensor) -> None:
        grid, constants = _elementwise(total)
        backend.launch(
            self.modules["scan"].finish_merged, grid, out.device, total, z, out, strides_of(z, "bld"),
            total.shape[2], total.shape[3], **constants,
        )  # fmt: skip

    def gate_backward(self, grad: Tensor, total: Tensor, z: Tensor, dz: Tensor) -> None:
        grid, constants = _elementwise(total)
        backend.launch(
            self.modules["scan_backward"].gate_backward, grid, total.device, grad, total, z, dz,
            strides_of(grad, "bld"), strides_of(z, "bld"), total.shape[2], total.shape[3], **constants,
        )  # fmt: skip


def require_paths(call: PathsCall) -> None:
    """Check that these kernels take this call of `scan_paths`, or of ``scan_carried``.

    Raises:
        Unsupported: they do not.
    """
    backend.require(call.x, call.x_dbl, call.z)
    Walk.check_paths(call)


def require_selective(call: SelectiveCall) -> None:
    """Check that these kernels take this call of `selective_scan`.

    Raises:
        Unsupported: they do not.
    """
    backend.require(call.u, call.delta, call.B, call.C, call.z)
    Walk.check_sequence(call)


scan_paths = partial(gpu_scans.scan_paths, TritonKernels.require)
scan_paths_backward = partial(gpu_scans.scan_paths_backward, TritonKernels.require)
scan_carried = partial(gpu_scans.scan_carried, TritonKernels.require)
scan_carried_backward = partial(gpu_scans.scan_carried_backward, TritonKernels.require)
selective_scan = partial(gpu_scans.selective_scan, TritonKernels.require)
selective_scan_backward = partial(gpu_scans.selective_scan_backward, TritonKernels.require)
