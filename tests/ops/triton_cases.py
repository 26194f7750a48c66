"""What `test_triton_interpreted` runs in a process of its own, for Triton reads TRITON_INTERPRET when it is imported.

Not collected by name. The interpreter takes tens of microseconds for every instruction of every step, so inputs are
tiny: 35 steps cross a chunk, 5 channels leave lanes empty, 3 states are padded to 4.
"""

from __future__ import annotations

import mmap
import os
import sys
from typing import Any

import pytest
import torch
from ops_helpers import (
    HALF_TOLERANCE,
    PLAIN,
    assert_matches_reference,
    conv_inputs,
    in_float64,
    norm_inputs,
    path_inputs,
    run_with_gradients,
    scan_inputs,
    with_dtype,
    with_layout,
)

from vimzoo.ops import (
    BIDIRECTIONAL,
    CROSS,
    BackendError,
    ScanPath,
    add_norm,
    causal_conv1d,
    gpu_scans,
    scan_paths,
    selective_scan,
    use_backend,
)

assert os.environ.get("TRITON_INTERPRET") == "1"
ACTIVATIONS = "x x_dbl z u delta B C residual"
TABLE = (ScanPath.from_table([2, -1, 0, 4]), ScanPath.from_table([5, 5, 1, -1]))
COLUMNS = (ScanPath("column", reverse=True),)
NO_RESERVE = 0x4000
"""Linux's MAP_NORESERVE, which Python's mmap does not name everywhere."""
HALVES = [torch.bfloat16, torch.float16]

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
    "many directions": (
        dict(batch=1, length=4, directions=8, states=1),
        dict(paths=CROSS + CROSS, grid=(2, 2)),
    ),
}
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
CONVS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one token": (dict(length=1), dict(reverse=(False, True), activation="silu")),
    "over a tile": (dict(batch=1, length=35, channels=20), dict(reverse=(False, True), activation="silu")),
    "three, bare": (dict(length=5, directions=3, taps=3, bias=False), dict(reverse=(True, False, True))),
    "one tap": (dict(length=5, directions=1, taps=1), dict(reverse=(True,))),
}
NORMS: dict[str, tuple[tuple[int, ...], dict[str, Any], dict[str, Any]]] = {
    "rms": ((2, 7, 40), dict(), dict()),
    "layer norm": ((3, 20), dict(), dict(rms=False)),
    "first": ((2, 5), dict(residual=False, bias=False), dict()),
    "wide": ((2, 2500), dict(), dict(rms=False)),
    "rows over programs": ((1200, 3), dict(), dict()),
}


@pytest.mark.parametrize("name", PATHS)
def test_scan_paths(name: str) -> None:
    sizes, settings = PATHS[name]
    assert_matches_reference(scan_paths, path_inputs(**sizes), backend="triton", **settings)


@pytest.mark.parametrize("name", SCANS)
def test_selective_scan(name: str) -> None:
    sizes, settings = SCANS[name]
    assert_matches_reference(selective_scan, scan_inputs(**sizes), backend="triton", **settings)


@pytest.mark.parametrize("name", CONVS)
def test_causal_conv1d(name: str) -> None:
    sizes, settings = CONVS[name]
    assert_matches_reference(causal_conv1d, conv_inputs(**sizes), backend="triton", **settings)


@pytest.mark.parametrize("name", NORMS)
def test_add_norm(name: str) -> None:
    shape, sizes, settings = NORMS[name]
    assert_matches_reference(add_norm, norm_inputs(*shape, **sizes), backend="triton", **settings)


SHORT = {
    "scan_paths": (scan_paths, lambda: path_inputs(length=6, states=3), dict(paths=BIDIRECTIONAL)),
    "scan_paths_table": (scan_paths, lambda: path_inputs(length=6, states=3), dict(paths=TABLE)),
    "selective_scan": (selective_scan, lambda: scan_inputs(length=5, states=3), dict(delta_softplus=True)),
    "causal_conv1d": (
        causal_conv1d,
        lambda: conv_inputs(length=5),
        dict(reverse=(False, True), activation="silu"),
    ),
    "add_norm": (add_norm, norm_inputs, dict()),
}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", SHORT)
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    function, make, settings = SHORT[name]
    tensors = with_dtype(make(), dtype, ACTIVATIONS)
    assert_matches_reference(
        function, tensors, backend="triton", tolerances=(HALF_TOLERANCE, HALF_TOLERANCE), **settings
    )


@pytest.mark.parametrize("layout", ["transposed", "strided", "offset"])
@pytest.mark.parametrize("name", SHORT)
def test_layouts(name: str, layout: str) -> None:
    function, make, settings = SHORT[name]
    assert_matches_reference(function, with_layout(make(), layout), backend="triton", **settings)


def far_apart(values: torch.Tensor, axis: int) -> torch.Tensor:
    """``values`` with more than 2^30 items from one to the next along ``axis``, in pages that are never touched."""
    strides = [stride if i != axis else 2**30 + 8 for i, stride in enumerate(values.contiguous().stride())]
    items = 1 + sum(stride * (size - 1) for stride, size in zip(strides, values.shape, strict=True))
    pages = mmap.mmap(
        -1, items * values.element_size(), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    )
    return torch.frombuffer(pages, dtype=values.dtype).as_strided(values.shape, strides).copy_(values)


@pytest.mark.skipif(
    sys.platform != "linux", reason="takes gigabytes of addresses, on Linux without memory behind them"
)
@pytest.mark.parametrize(("name", "axis"), [("x", 0), ("x_dbl", 1), ("z", 0)])
def test_offsets_beyond_32_bits(name: str, axis: int) -> None:
    """An image, or a token, that lies more than 2^31 items from the first is found."""
    tensors = with_dtype(path_inputs(batch=4, length=4, directions=1, states=1), torch.bfloat16, ACTIVATIONS)
    expected = run_with_gradients(scan_paths, tensors, backend="triton", paths=BIDIRECTIONAL[1:])
    given = tensors[name]
    assert given is not None
    far = {**tensors, name: far_apart(given, axis)}
    found = run_with_gradients(scan_paths, far, backend="triton", paths=BIDIRECTIONAL[1:])
    for values, truths in zip(found, expected, strict=True):
        assert all(torch.equal(value, truths[key]) for key, value in values.items())


@pytest.mark.parametrize("name", SHORT)
def test_no_images(name: str) -> None:
    function, make, settings = SHORT[name]
    tensors = {n: t[:0] if t is not None and n in ACTIVATIONS.split() else t for n, t in make().items()}
    outputs, gradients = run_with_gradients(function, tensors, backend="triton", **settings)
    assert all(not value.numel() for value in outputs.values())
    assert all(not value.any() for value in gradients.values())


@pytest.mark.parametrize("name", ["scan_paths", "scan_paths_table"])
def test_slices_of_images(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where partial results of all images would not fit, they are made for one image after another."""
    monkeypatch.setattr(gpu_scans, "SCRATCH_BYTES", 1)
    function, make, settings = SHORT[name]
    assert_matches_reference(function, make(), backend="triton", **settings)


@pytest.mark.parametrize("name", ["scan_paths", "scan_paths_table", "selective_scan"])
def test_reference_ran_the_forward_pass(name: str) -> None:
    """It saves no states: the backward pass works them out."""
    function, make, settings = SHORT[name]
    tensors = make()

    def forward(**kwargs: Any) -> Any:
        with use_backend("reference"):
            return function(**kwargs)

    with use_backend("triton"):
        _, expected = run_with_gradients(function, tensors, **settings)
        leaves = {n: None if t is None else t.detach().requires_grad_() for n, t in tensors.items()}
        out = forward(**leaves, **settings)
        generator = torch.Generator().manual_seed(1)
        cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out)
        given = [leaf for leaf in leaves.values() if leaf is not None]
        found = torch.autograd.grad(out, given, cotangent)
    for value, truth in zip(found, expected.values(), strict=True):
        assert torch.equal(value, truth)


@pytest.mark.parametrize("name", PLAIN)
def test_refuses_float64(name: str) -> None:
    function, make, settings = PLAIN[name]
    with pytest.raises(BackendError, match=r"'triton' cannot run \w+: torch.float64 on cpu"):
        function(**in_float64(make()), **settings, backend="triton")


def test_refuses_what_the_reference_runs() -> None:
    with pytest.raises(BackendError, match="constant B or C"):
        selective_scan(**scan_inputs(groups=None), backend="triton")  # type: ignore[arg-type]
    tensors = scan_inputs(length=4)
    tensors["A"], tensors["B"] = tensors["A"].to(torch.complex64), torch.randn(2, 1, 8, 8)  # type: ignore[union-attr]
    tensors["C"] = torch.randn(2, 1, 8, 8)
    with pytest.raises(BackendError, match="complex A"):
        selective_scan(**tensors, backend="triton")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("states", [1, 3, 16])
@pytest.mark.parametrize("length", [1, 5, 35])
@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize("optional", ["", "D z"])
def test_scan_paths_grid(states: int, length: int, grid: bool, optional: str) -> None:
    paths, shape = (CROSS, (length // 5 or 1, min(length, 5))) if grid else (BIDIRECTIONAL, (1, length))
    tensors = path_inputs(
        length=length, states=states, directions=len(paths), own=not grid, optional=optional
    )
    assert_matches_reference(scan_paths, tensors, backend="triton", paths=paths, grid=shape)


@pytest.mark.slow
@pytest.mark.parametrize("states", [1, 3, 16, 40])
@pytest.mark.parametrize("length", [1, 5, 35])
@pytest.mark.parametrize("softplus", [False, True])
def test_selective_scan_grid(states: int, length: int, softplus: bool) -> None:
    # without softplus a bias would make steps negative, whose states outgrow float32
    optional = "D z delta_bias" if softplus else "D z"
    tensors = scan_inputs(length=length, states=states, groups=1, optional=optional)
    settings = {"delta_softplus": softplus, "return_last_state": True}
    assert_matches_reference(selective_scan, tensors, backend="triton", **settings)
