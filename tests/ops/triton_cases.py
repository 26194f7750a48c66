"""What `test_triton_interpreted` runs in a process of its own, for Triton reads TRITON_INTERPRET when it is imported.

Not collected by name. The interpreter takes tens of microseconds for every instruction of every step, so inputs are
tiny: 35 steps cross a chunk, 5 channels leave lanes empty, 3 states are padded to 4.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
import torch
from gpu_cases import ACTIVATIONS, CARRIED, PATHS, SCANS, SHORT_SCANS, assert_restores_states, far_apart
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
from triton.runtime import interpreter

from vimzoo.ops import BIDIRECTIONAL, CROSS, BackendError, add_norm, causal_conv1d, scan_paths, selective_scan
from vimzoo.ops.scan import gpu_scans

assert os.environ.get("TRITON_INTERPRET") == "1"


def patch_tensor(tensor: Any, *scope: Any, original: Any = interpreter._patch_lang_tensor) -> None:
    """Bounds of loops as numbers: Triton 3.4 takes ``int`` of arrays of one element, which NumPy 2.5 refuses."""
    original(tensor, *scope)
    tensor.__index__ = lambda self: int(self.handle.data.item())


interpreter._patch_lang_tensor = patch_tensor
HALVES = [torch.bfloat16, torch.float16]

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


@pytest.mark.parametrize("name", CARRIED)
def test_scan_paths_carried(name: str) -> None:
    sizes, settings = CARRIED[name]
    tensors = path_inputs(**sizes, carried=True)
    assert_matches_reference(scan_paths, tensors, backend="triton", return_final_state=True, **settings)


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
    **SHORT_SCANS,
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


@pytest.mark.parametrize("name", SHORT_SCANS)
def test_reference_ran_the_forward_pass(name: str) -> None:
    assert_restores_states("triton", name)


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
