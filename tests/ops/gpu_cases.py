"""Scans that every GPU backend is tried on: tiny, for both are run on the CPU, where each step takes its time.

35 steps cross a chunk, 5 channels leave lanes empty, 3 states are no power of two.
"""

from __future__ import annotations

import mmap
from typing import Any

import torch
from ops_helpers import path_inputs, run_with_gradients, scan_inputs

from vimzoo.ops import BIDIRECTIONAL, CROSS, ScanPath, scan_paths, selective_scan, use_backend

ACTIVATIONS = "x x_dbl z u delta B C residual"
TABLE = (ScanPath.from_table([2, -1, 0, 4]), ScanPath.from_table([5, 5, 1, -1]))
COLUMNS = (ScanPath("column", reverse=True),)
NO_RESERVE = 0x4000
"""Linux's MAP_NORESERVE, which Python's mmap does not name everywhere."""

PATHS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one step": (dict(batch=1, length=1, states=16), dict(paths=BIDIRECTIONAL)),
    "two directions": (dict(length=35, own=True, states=3), dict(paths=BIDIRECTIONAL)),
    "cross": (dict(length=6, directions=4, states=16), dict(paths=CROSS, grid=(3, 2))),
    "cross, shared": (
        dict(batch=1, length=6, directions=4, states=1, shared="x_dbl A dt_weight dt_bias D", optional="D"),
        dict(paths=CROSS, grid=(2, 3)),
    ),
    "columns over a chunk": (
        dict(batch=1, length=35, channels=20, directions=1),
        dict(paths=COLUMNS, grid=(7, 5)),
    ),
    "one direction, no skip": (dict(length=5, directions=1, optional=""), dict(paths=BIDIRECTIONAL[1:])),
    "each by itself": (dict(length=5, optional="D"), dict(paths=BIDIRECTIONAL, merge=False)),
    "table": (dict(length=6, states=3), dict(paths=TABLE)),
    "table, own": (dict(length=6, states=1, own=True, optional=""), dict(paths=TABLE)),
    "table, each by itself": (dict(length=6, states=3, optional="D"), dict(paths=TABLE, merge=False)),
    "states": (dict(length=35, directions=1, states=1, optional="", C=False), dict(paths=BIDIRECTIONAL[1:])),
    "states, table": (dict(length=6, states=1, optional="", C=False), dict(paths=TABLE)),
    "many directions": (
        dict(batch=1, length=4, directions=8, states=1),
        dict(paths=CROSS + CROSS, grid=(2, 2)),
    ),
}
CARRIED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "two directions": (dict(length=35, own=True, states=3), dict(paths=BIDIRECTIONAL)),
    "states": (dict(length=5, directions=1, states=1, optional="", C=False), dict(paths=BIDIRECTIONAL[1:])),
    "table, each by itself": (dict(length=6, states=3, optional="D"), dict(paths=TABLE, merge=False)),
}
"""From initial states to final ones."""
SCANS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one step": (dict(length=1, states=16), dict(delta_softplus=True)),
    "groups over a chunk": (
        dict(batch=1, channels=6, length=35, groups=2, states=3),
        dict(delta_softplus=True, return_last_state=True),
    ),
    "bare": (dict(length=5, groups=0, states=1, optional=""), dict()),
    "shared and grouped": (
        dict(channels=4, length=5, groups=1, C_groups=2, states=3),
        dict(return_last_state=True),
    ),
}
SHORT_SCANS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "scan_paths": (scan_paths, lambda: path_inputs(length=6, states=3), dict(paths=BIDIRECTIONAL)),
    "scan_paths_table": (scan_paths, lambda: path_inputs(length=6, states=3), dict(paths=TABLE)),
    "selective_scan": (selective_scan, lambda: scan_inputs(length=5, states=3), dict(delta_softplus=True)),
}


def far_apart(values: torch.Tensor, axis: int) -> torch.Tensor:
    """``values`` with more than 2^30 items from one to the next along ``axis``, in pages that are never touched."""
    strides = [stride if i != axis else 2**30 + 8 for i, stride in enumerate(values.contiguous().stride())]
    items = 1 + sum(stride * (size - 1) for stride, size in zip(strides, values.shape, strict=True))
    pages = mmap.mmap(
        -1, items * values.element_size(), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    )
    return torch.frombuffer(pages, dtype=values.dtype).as_strided(values.shape, strides).copy_(values)


def assert_restores_states(backend: str, name: str) -> None:
    """After the reference, which saves no states, the backward pass works them out."""
    function, make, settings = SHORT_SCANS[name]
    tensors = make()

    def forward(**kwargs: Any) -> Any:
        with use_backend("reference"):
            return function(**kwargs)

    with use_backend(backend):
        _, expected = run_with_gradients(function, tensors, **settings)
        leaves = {n: None if t is None else t.detach().requires_grad_() for n, t in tensors.items()}
        out = forward(**leaves, **settings)
        generator = torch.Generator().manual_seed(1)
        cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out)
        given = [leaf for leaf in leaves.values() if leaf is not None]
        found = torch.autograd.grad(out, given, cotangent)
    for value, truth in zip(found, expected.values(), strict=True):
        assert torch.equal(value, truth)
