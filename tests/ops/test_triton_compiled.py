"""Every Triton kernel compiled for GPUs that are not there."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from benchmark_scripts import benchmark
from ops_helpers import conv_inputs, norm_inputs, path_inputs, scan_inputs, with_dtype
from torch import Tensor

from vimzoo.ops import CROSS, ScanPath, add_norm, causal_conv1d, scan_paths, selective_scan

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="TRITON_INTERPRET compiles nothing"),
]
KERNELS = {
    "scan_forward", "finish_merged", "scan_backward", "gate_backward", "conv_forward", "conv_backward_weight",
    "conv_backward_input", "norm_forward", "norm_backward",
}  # fmt: skip


@pytest.fixture(scope="module")
def sass() -> Any:
    """``benchmarks/sass.py``."""
    return benchmark("sass")


@pytest.fixture(scope="module")
def amd_linker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Triton 3.4 links AMD's code with a program of ROCm; Zig brings one that does the same."""
    from triton.backends.amd import compiler

    try:
        getattr(compiler.HIPBackend, "path_to_rocm_lld", str)()
    except Exception as error:
        if importlib.util.find_spec("ziglang") is None:
            pytest.skip(f"no linker for AMD: {error}")
        script = tmp_path_factory.mktemp("linker") / "ld.lld"
        script.write_text(
            f'#!/bin/sh\n[ "$1" = -flavor ] && shift 2\nexec "{sys.executable}" -m ziglang ld.lld "$@"\n'
        )
        script.chmod(0o755)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_HIP_LLD_PATH", str(script))
            yield
        return
    yield


def forward_and_backward(
    function: Callable[..., Any], tensors: dict[str, Tensor | None], **settings: Any
) -> None:
    """Run both passes; what comes out is not looked at."""
    leaves = {n: None if t is None else t.detach().requires_grad_() for n, t in tensors.items()}
    outputs = function(**leaves, **settings, backend="triton")
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.autograd.backward(outputs, [torch.empty_like(out) for out in outputs])


def run_everything(dtype: torch.dtype, small: bool) -> None:
    """Each operator, its rarer branches only unless ``small``."""
    activations = "x x_dbl z u delta B C residual"
    channels, states = (20, 3) if small else (64, 16)
    tensors = path_inputs(length=35, channels=channels, states=states, directions=4)
    forward_and_backward(scan_paths, with_dtype(tensors, dtype, activations), paths=CROSS, grid=(5, 7))
    tensors = scan_inputs(channels=channels, states=states, groups=2)
    settings = {"delta_softplus": True, "return_last_state": True}
    forward_and_backward(selective_scan, with_dtype(tensors, dtype, activations), **settings)
    tensors = conv_inputs(channels=channels)
    forward_and_backward(
        causal_conv1d, with_dtype(tensors, dtype, activations), reverse=(False, True), activation="silu"
    )
    for rms in (True, False):
        tensors = norm_inputs(2, 7, channels)
        forward_and_backward(add_norm, with_dtype(tensors, dtype, activations), rms=rms)
    if not small:
        return
    table = tuple(ScanPath.from_table(numbers) for numbers in ([2, -1, 0, 4], [5, 5, 1, -1]))
    for merge in (True, False):
        tensors = path_inputs(
            length=6, channels=channels, states=1, own=True, optional="D z" if merge else ""
        )
        forward_and_backward(scan_paths, with_dtype(tensors, dtype, activations), paths=table, merge=merge)
    tensors = path_inputs(length=6, channels=channels, states=1, directions=1)
    forward_and_backward(scan_paths, with_dtype(tensors, dtype, activations), paths=CROSS[:1])
    tensors = scan_inputs(channels=channels, states=states, groups=0, optional="")
    forward_and_backward(selective_scan, with_dtype(tensors, dtype, activations))
    tensors = conv_inputs(channels=channels, directions=1, bias=False)
    forward_and_backward(causal_conv1d, with_dtype(tensors, dtype, activations))
    tensors = norm_inputs(2, 7, channels, residual=False, bias=False)
    forward_and_backward(add_norm, with_dtype(tensors, dtype, activations))


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_compiles(sass: Any, amd_linker: None, target: str) -> None:
    """All kernels in bfloat16, with the arguments that a GPU would get."""
    with sass.compiling(target) as found:
        run_everything(torch.bfloat16, small=False)
    assert {made.name for made in found} == KERNELS
    binary = "hsaco" if target.startswith("gfx") else "cubin"
    assert all(made.assembly[binary] for made in found)


@pytest.mark.slow
@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_compiles_everywhere(
    sass: Any, amd_linker: None, target: str, dtype: torch.dtype, small: bool
) -> None:
    with sass.compiling(target) as found:
        run_everything(dtype, small)
    assert {made.name for made in found} == KERNELS


@pytest.mark.parametrize("shape", ["Vim-T 224, 64 images", "VMamba-T stage 1, 128 images"])
def test_forward_scans_keep_states_in_registers(sass: Any, shape: str) -> None:
    """The loop over steps spills nothing, with any release of Triton; other counts are a release's own."""
    rows = {row["kernel"]: row for row in sass.count_shapes([shape])}
    assert rows["scan_forward"]["slots"] > 0
    assert rows["scan_forward"]["local"] == 0
