"""Launchers of the CUDA scans: `gpu_scans` over the kernels of ``kernels/selective_scan/*.cu``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..backends import Unsupported
from ..runtime import cuda_backend as backend
from ..runtime.abi import DTYPES, device_address
from ..runtime.native import float_parameter
from ..runtime.strides import direction_stride, strides_of
from . import gpu_scans
from .call import CHUNK, ScanCall, SelectiveCall
from .gpu_scans import Gradients, Kernels, Walk

MOST_STATES, MOST_RANK = 16, 64
"""Limits set by the registers of one thread."""
MOST_TILE_THREADS = 512
"""Limit of the kernel that holds a map in shared memory: with more threads, registers would not hold 16 states."""
MOST_STRIDE = 2**32
"""Limit in bytes from one token to the next: kernels multiply strides of tokens in 32 bits."""
MOST_SHARED = 64 * 1024
"""Bytes of shared memory of a block, so that a multiprocessor with 228 KB runs at least three; all that sm_75 has."""
ENOUGH_WARPS = 1056
"""Two per scheduler of an H100; with fewer, blocks have one warp, so that they spread over more multiprocessors."""


NOTHING, BY_DIRECTION, BY_TOKEN, BY_STEP, PAIR = range(5)
"""The forward scan's output, numbered as in ``cuda_common.cuh``."""

THEIR_SUM = 2
"""Value of GATED where the gate multiplies a sum over directions; see ``cuda_scan_backward.cu``."""


def _order(axes: str) -> int:
    return BY_STEP if "t" in axes else BY_TOKEN


def backward_shared(states: int, rank: int, block: int) -> int:
    """Bytes of shared memory of a block of the backward scan: ``Room`` in ``cuda_scan_backward.cu``."""
    stretch = 4 if states > 8 else 8  # steps whose states registers hold
    columns = rank + 2 * states
    row = -(-columns // 4) * 4  # rows start at multiples of 16 bytes
    saved = (CHUNK // stretch * states + stretch) * block
    # one row per thread, padded to an odd number of 16-byte words so that threads of a warp use different banks
    values = block * (row if row % 8 else row + 4)
    sums = 2 * (block // 32) * stretch * columns  # one per warp, in two buffers
    weights = (
        2 * (rank if rank > 16 else 1) * block
    )  # of dt, and their gradients, where registers do not hold them
    size = CHUNK * row + CHUNK + saved + values + sums + weights
    return 4 * (-(-size // 4) * 4)  # as aligned as its first member


def crowded(walk: Walk) -> bool:
    """Whether a thread for each channel and path is enough to keep a GPU busy."""
    each = walk.channels // walk.groups
    return walk.batch * walk.directions * walk.groups * -(-each // 32) >= ENOUGH_WARPS


def forward_block(walk: Walk) -> int:
    """Channels, and threads, of a block of the forward scan."""
    return 64 if walk.channels // walk.groups > 32 and crowded(walk) else 32


def backward_block(walk: Walk) -> int:
    """Channels, and threads, of a block of the backward scan: as many as shared memory is for, up to 64."""
    wide = walk.channels // walk.groups > 32
    return 64 if wide and backward_shared(walk.states, walk.rank, 64) <= MOST_SHARED else 32


@dataclass(frozen=True)
class Tile:
    """A block of ``cuda_tile.cu``: a map of so many channels in shared memory, so many steps to a thread."""

    lanes: int
    span: int
    threads: int
    shared: int


def tile_of(walk: Walk, limit: int) -> Tile | None:
    """The block that holds ``walk``'s map within ``limit`` bytes, if its tile form exists and pays.

    This kernel takes several closed-form paths over one x. It computes everything twice but works on the chunks of a
    path in parallel, so it pays where images are too few to fill a GPU otherwise. Small maps are held for 32 channels,
    so that a warp reads whole rows of shared memory, larger ones for 16 or 8.
    """
    if walk.table is not None or "k" in walk.x_axes or walk.directions < 2 or crowded(walk):
        return None
    for lanes in (32, 16, 8):
        # a thread walks `span` steps of one channel; longer spans until the threads of the block are few enough
        span = CHUNK
        while lanes * -(-walk.steps // span) > MOST_TILE_THREADS:
            span *= 2
        chunks = -(-walk.steps // span)
        # sums in float32 and x in its own dtype, one item of padding per chunk against bank conflicts; then, per
        # chunk, the sum of its step sizes and its states at the end, from which later chunks compute their start
        items = (walk.steps + chunks) * lanes
        shared = items * (4 + walk.x.element_size()) + chunks * lanes * (1 + walk.states) * 4
        if shared <= limit:
            return Tile(lanes, span, -(-chunks * lanes // 32) * 32, shared)
    return None


def is_pair(walk: Walk) -> bool:
    """Whether the paths are a closed form and its reverse: then one block walks both and adds them up."""
    return walk.table is None and walk.directions == 2 and (walk.packed ^ walk.packed >> 4) & 15 == 1


def load_width(rows: Tensor) -> int:
    """Bytes, 16, 4 or one item, that divide the rows ``(B, L, K, R + 2 N)``, their strides and their address."""
    item = rows.element_size()
    strides = [stride for stride, size in zip(rows.stride()[:-1], rows.shape[:-1], strict=True) if size > 1]
    for width in (16, 4):
        if rows.data_ptr() % width == 0 and all(n * item % width == 0 for n in (rows.shape[-1], *strides)):
            return width
    return item


def _blocks(walk: Walk, block: int) -> int:
    return -(-(walk.channels // walk.groups) // block)


def _tensor(name: str, tensor: Tensor | None, axes: str) -> dict[str, int]:
    """Address and strides of a tensor under its field names."""
    order = "blkgn" if "n" in axes else "blkd"
    strides = strides_of(tensor, axes, order)
    if tensor is not None and strides[1] * tensor.element_size() >= MOST_STRIDE:
        raise Unsupported(f"{name} goes 4 GB or more from one token to the next")
    return {name: device_address(tensor)} | {
        f"{name}_{axis}": s for axis, s in zip(order, strides, strict=True)
    }


def _inputs(walk: Walk, z: Tensor | None, z_axes: str) -> tuple[dict[str, int], list[Any]]:
    """The fields that both scans share, and what must stay alive until the launch."""
    A, W, bias, D = parameters = [float_parameter(p) for p in (walk.A, walk.weight, walk.bias, walk.D)]
    assert A is not None
    fields = dict(
        batch=walk.batch, channels=walk.channels, per_group=walk.channels // walk.groups,
        directions=walk.directions, steps=walk.steps, height=walk.grid[0], width=walk.grid[1], codes=walk.packed,
        A=device_address(A), W=device_address(W), bias=device_address(bias), D=device_address(D),
        table=device_address(walk.table), A_k=direction_stride(A), A_d=A.stride(1), A_n=A.stride(2),
        bias_k=direction_stride(bias), D_k=direction_stride(D),
    )  # fmt: skip
    if W is not None:
        fields |= dict(W_k=direction_stride(W), W_d=W.stride(1), W_r=W.stride(2))
    fields |= (
        _tensor("x", walk.x, walk.x_axes) | _tensor("dt", walk.dt, walk.dt_axes) | _tensor("z", z, z_axes)
    )
    return fields | _tensor("B", walk.B, "bgnl") | _tensor("C", walk.C, "bgnl"), parameters


def _constants(walk: Walk, z: Tensor | None, block: int, output: int) -> dict[str, int]:
    rows = walk.dt if walk.B is None else walk.B
    return dict(
        STATES=walk.states, RANK=walk.rank, BLOCK=block, DTYPE=DTYPES[walk.x.dtype], ROW_DTYPE=DTYPES[rows.dtype],
        SOFTPLUS=int(walk.softplus), GATED=int(z is not None), TABLE=int(walk.table is not None), OUTPUT=output,
    )  # fmt: skip


def _check_sizes(states: int, rank: int) -> None:
    if states > MOST_STATES or rank > MOST_RANK:
        raise Unsupported(f"{states} states and {rank} dt columns; at most {MOST_STATES} and {MOST_RANK}")


def require_paths(call: ScanCall) -> None:
    """Check that these kernels take this call of `scan_paths`.

    Raises:
        Unsupported: they do not.
    """
    backend.require(call.x, call.x_dbl, call.z)
    Walk.check_paths(call)
    _check_sizes(call.d_state, call.rank)


def require_selective(call: SelectiveCall) -> None:
    """Check that these kernels take this call of `selective_scan`.

    Raises:
        Unsupported: they do not.
    """
    backend.require(call.u, call.delta, call.B, call.C, call.z)
    Walk.check_sequence(call)
    _check_sizes(call.d_state, 0)
    if call.B.dtype != call.C.dtype:
        raise Unsupported("B and C of different dtypes")


def _check(walk: Walk) -> None:
    _check_sizes(walk.states, walk.rank)
    if walk.B is not None and walk.C is not None and walk.B.dtype != walk.C.dtype:
        raise Unsupported("B and C of different dtypes")


class CudaKernels(Kernels):
    """The kernels in CUDA C++; each is compiled for its sizes when first launched."""

    @classmethod
    def require(cls, *tensors: Tensor | None) -> CudaKernels:
        """Kernels for these activations; see `cuda_backend.require`."""
        backend.require(*tensors)
        return cls()

    def parts(self, walk: Walk) -> int:
        return _blocks(walk, backward_block(walk))

    def forward(
        self, walk: Walk, *, out: Tensor | None = None, out_axes: str = "bld", z: Tensor | None = None,
        z_axes: str = "bld", total: Tensor | None = None, states: Tensor | None = None, last: Tensor | None = None,
    ) -> None:  # fmt: skip
        _check(walk)
        block = forward_block(walk)
        fields, alive = _inputs(walk, z, z_axes)
        fields |= _tensor("out", out, out_axes.replace("t", "l")) | _tensor("total", total, "bkld")
        fields |= dict(states=device_address(states), last=device_address(last))
        grid = (walk.batch * walk.groups * _blocks(walk, block), walk.directions)
        if total is not None:
            output = BY_DIRECTION if out is None else PAIR
        else:
            output = NOTHING if out is None else _order(out_axes)
        constants = _constants(walk, z, block, output)
        if output == PAIR:
            grid, constants["THREADS"] = (grid[0], 1), 2 * block
        self._launch("cuda_scan.cu", "scan_forward", constants, grid, fields, walk.x.device)
        del alive

    def backward(
        self, walk: Walk, grad: Tensor, grad_axes: str, states: Tensor, to: Gradients, z: Tensor | None,
        z_axes: str = "bld", grad_last: Tensor | None = None,
    ) -> None:  # fmt: skip
        _check(walk)
        block = backward_block(walk)
        fields, alive = _inputs(walk, z, z_axes)
        fields |= _tensor("grad", grad, grad_axes.replace("t", "l")) | _tensor("dx", to.dx, to.dx_axes)
        fields |= _tensor("dz", to.dz, z_axes) | _tensor("total", to.total, "bkld")
        fields |= _tensor("d_dt", to.d_dt, to.d_dt_axes)
        fields |= _tensor("dB", to.dB, "pbgnl") | _tensor("dC", to.dC, "pbgnl")
        fields |= dict(zip(("d_dt_part", "dB_part"), gpu_scans.part_strides(to), strict=True))
        fields |= {name: device_address(total) for name, total in to.sums.items()}
        fields |= dict(states=device_address(states), grad_last=device_address(grad_last))
        grid = (walk.batch * walk.groups * _blocks(walk, block), walk.directions)
        constants = _constants(walk, z, block, _order(grad_axes))
        constants["DX_WIDE"] = int(to.dx.dtype is torch.float32)
        constants["SHARED_BYTES"] = backward_shared(walk.states, walk.rank, block)
        if to.total is not None:
            constants["GATED"] = THEIR_SUM
        self._launch("cuda_scan_backward.cu", "scan_backward", constants, grid, fields, walk.x.device)
        del alive

    def merged(
        self, walk: Walk, z: Tensor | None, out: Tensor, states: Tensor | None, last: Tensor | None = None
    ) -> None:
        """Scan all directions, add them up and gate: in one launch where a map fits shared memory."""
        _check(walk)
        tile = tile_of(walk, backend.shared_limit(walk.x.device))
        if tile is None and is_pair(walk):
            shape = (walk.batch, 1, walk.x.shape[1], walk.channels)
            first_visits = walk.x.new_empty(shape, dtype=torch.float32)
            self.forward(walk, out=out, z=z, total=first_visits, states=states)
            return
        if tile is None:
            super().merged(walk, z, out, states, last)
            return
        fields, alive = _inputs(walk, z, "bld")
        fields |= _tensor("out", out, "bld") | dict(states=device_address(states), length=walk.x.shape[1])
        constants = _constants(walk, z, tile.threads, BY_TOKEN) | dict(
            LANES=tile.lanes, SPAN=tile.span, LOAD=load_width(walk.dt), SAVING=int(states is not None),
            SHARED_BYTES=tile.shared,
        )  # fmt: skip
        grid = (walk.batch * -(-walk.channels // tile.lanes), 1)
        self._launch("cuda_tile.cu", "scan_tile", constants, grid, fields, walk.x.device)
        del alive

    def finish_merged(self, total: Tensor, z: Tensor | None, out: Tensor) -> None:
        self._elementwise("finish_merged", total, z, dict(out=device_address(out)), out.dtype)

    def gate_backward(self, grad: Tensor, total: Tensor, z: Tensor, dz: Tensor) -> None:
        self._elementwise(
            "gate_backward", total, z, _tensor("grad", grad, "bld") | dict(dz=device_address(dz)), dz.dtype
        )

    def _elementwise(
        self, name: str, total: Tensor, z: Tensor | None, fields: dict[str, int], dtype: torch.dtype
    ) -> None:
        batch, directions, tokens, channels = total.shape
        fields |= _tensor("z", z, "bld") | dict(
            total=device_address(total), batch=batch, directions=directions, length=tokens, channels=channels
        )
        block = 128 if channels > 64 else 64
        constants = dict(
            STATES=1, RANK=0, BLOCK=block, DTYPE=DTYPES[dtype], ROW_DTYPE=0, SOFTPLUS=0, GATED=int(z is not None),
            TABLE=0, OUTPUT=NOTHING,
        )  # fmt: skip
        grid = (batch * tokens, -(-channels // block))
        self._launch("cuda_merge.cu", name, constants, grid, fields, total.device)

    def _launch(
        self, source: str, name: str, constants: dict[str, int], grid: tuple[int, int], fields: dict[str, int],
        device: torch.device,
    ) -> None:  # fmt: skip
        backend.launch(
            source,
            name,
            constants,
            grid,
            backend.ScanArguments(**fields),
            device,
            constants.get("SHARED_BYTES", 0),
        )


scan_paths = partial(gpu_scans.scan_paths, CudaKernels.require)
scan_paths_backward = partial(gpu_scans.scan_paths_backward, CudaKernels.require)
selective_scan = partial(gpu_scans.selective_scan, CudaKernels.require)
selective_scan_backward = partial(gpu_scans.selective_scan_backward, CudaKernels.require)
