"""Every CUDA kernel compiled for GPUs that are not there, and the cache of compiled kernels."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_scripts import benchmark
from gpu_cases import ACTIVATIONS, TABLE
from ops_helpers import path_inputs, scan_inputs, with_dtype
from torch import Tensor

from vimzoo.ops import CROSS, BackendError, backends, scan_paths, selective_scan
from vimzoo.ops.runtime import abi, cuda_backend, cuda_driver, nvrtc
from vimzoo.ops.scan import cuda_scans

needs_nvrtc = pytest.mark.skipif(nvrtc.load()[0] is None, reason=f"no NVRTC: {nvrtc.load()[1]}")
needs_disassembler = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton, which brings a disassembler, is not installed"
)
KERNELS = {"scan_forward", "scan_tile", "finish_merged", "scan_backward", "gate_backward"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is left in the user's cache; within a session what was compiled is kept."""
    folder = tmp_path_factory.getbasetemp() / "cubins"
    monkeypatch.setenv("VIMZOO_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def sass_cuda() -> Any:
    """``benchmarks/sass_cuda.py``."""
    return benchmark("sass_cuda")


def forward_and_backward(function: Any, tensors: dict[str, Tensor | None], **settings: Any) -> None:
    """Run both passes; what comes out is not looked at."""
    leaves = {n: None if t is None else t.detach().requires_grad_() for n, t in tensors.items()}
    outputs = function(**leaves, **settings, backend="cuda")
    torch.autograd.backward(outputs, torch.empty_like(outputs))


@needs_nvrtc
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_compiles(sass_cuda: Any, target: str) -> None:
    """Every kernel, at odd sizes; at those of layers in `counted`, at more in the slow test."""
    with sass_cuda.compiling(target) as found:
        tensors = with_dtype(path_inputs(length=6, states=3), torch.float16, ACTIVATIONS)
        forward_and_backward(scan_paths, tensors, paths=TABLE)
        forward_and_backward(selective_scan, scan_inputs(states=1), delta_softplus=True)
        tensors = with_dtype(path_inputs(length=6, states=1, directions=4), torch.bfloat16, ACTIVATIONS)
        with torch.no_grad():
            scan_paths(**tensors, paths=CROSS, grid=(2, 3), backend="cuda")  # type: ignore[arg-type]
    assert {made.name for made in found} == KERNELS
    assert all(made.code.startswith(b"\x7fELF") for made in found)


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_compiles_everywhere(sass_cuda: Any, target: str, dtype: torch.dtype) -> None:
    with sass_cuda.compiling(target) as found:
        for states, rank in ((1, 6), (10, 4), (16, 24), (16, 48), (16, 64)):
            for paths, grid in ((CROSS, (5, 7)), (TABLE, (5, 7))):
                sizes = dict(length=35, channels=64, states=states, rank=rank, directions=len(paths))
                tensors = with_dtype(path_inputs(**sizes), dtype, ACTIVATIONS)  # type: ignore[arg-type]
                forward_and_backward(scan_paths, tensors, paths=paths, grid=grid)
        for softplus in (True, False):
            tensors = with_dtype(scan_inputs(channels=64, states=16, groups=2), dtype, ACTIVATIONS)
            forward_and_backward(selective_scan, tensors, delta_softplus=softplus)
    assert {made.name for made in found} == KERNELS
    assert {made.constants["STATES"] for made in found if made.name == "scan_backward"} == {1, 10, 16}


@needs_nvrtc
@needs_disassembler
@pytest.mark.parametrize(
    "shape", ["Vim-T 224, 64 images", "MambaIR 64x64, 8 images", "VMamba-T stage 1, 1 image"]
)
def test_forward_scans_keep_states_in_registers(sass_cuda: Any, shape: str) -> None:
    """A thread is a channel: the loop over steps needs no other lane and spills nothing, with any release of NVRTC."""
    (row,) = [
        row
        for row in sass_cuda.count_shapes([shape], without_backward=[shape])
        if row["kernel"] in ("scan_forward", "scan_tile")
    ]
    assert row["slots"] > 0
    assert (row["shuffles"], row["local"]) == (0, 0)


def test_counting_loops(sass_cuda: Any) -> None:
    """By hand: a loop over 8 steps with two exponentials and one multiplication, 4 slots with its branch."""
    made = sass_cuda.Compiled("scan_forward", {"RANK": 1, "STATES": 1, "BLOCK": 32}, b"")
    code = [(0, "MOV R1, c[0x0]"), (16, "MUFU.EX2 R1, R1"), (32, "@P0 MUFU.EX2 R2, R2"), (48, "FMUL R1, R1, R2"),
            (64, "@P1 BRA 0x10"), (80, "STL [R1], R2")]  # fmt: skip
    made.instructions = lambda: code
    row = sass_cuda.count(made)
    assert row["slots"] == 4 / 8 and row["mufu"] == 2 / 8 and row["local"] == 1


SOURCES = {
    "one.cu": '#include "two.cuh"\nextern "C" __global__ void f(int* a) { *a = VALUE; }\n',
    "two.cuh": "",
}


@needs_nvrtc
def test_compiled_once(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found again in the cache, unless anything that decides it is another; a broken file there is replaced."""
    folder = own_cache / "once"
    monkeypatch.setenv("VIMZOO_CACHE", str(folder))

    def written() -> dict[str, int]:
        return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}

    first = nvrtc.cubin("one.cu", SOURCES, "sm_90", {"VALUE": 1})
    once = written()
    assert nvrtc.cubin("one.cu", SOURCES, "sm_90", {"VALUE": 1}) == first and written() == once
    nvrtc.cubin("one.cu", SOURCES, "sm_90", {"VALUE": 2})
    nvrtc.cubin("one.cu", SOURCES, "sm_80", {"VALUE": 1})
    nvrtc.cubin("one.cu", {**SOURCES, "two.cuh": "// another text"}, "sm_90", {"VALUE": 1})
    assert len(written()) == 4 and all(name.endswith(".cubin") for name in written())
    for file in folder.iterdir():
        file.write_bytes(b"half a file")
    assert nvrtc.cubin("one.cu", SOURCES, "sm_90", {"VALUE": 1}) == first
    assert first in [file.read_bytes() for file in folder.iterdir()]


@needs_nvrtc
def test_a_cache_that_cannot_be_written(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_cache.mkdir(parents=True, exist_ok=True)
    (own_cache / "a file").touch()
    monkeypatch.setenv("VIMZOO_CACHE", str(own_cache / "a file" / "below"))
    assert nvrtc.cubin("one.cu", SOURCES, "sm_90", {"VALUE": 3}).startswith(b"\x7fELF")


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nvrtc.cache_folder().name == "cubins"
    monkeypatch.delenv("VIMZOO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert nvrtc.cache_folder() == Path("/elsewhere/vimzoo")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert nvrtc.cache_folder() == Path.home() / ".cache" / "vimzoo"


@needs_nvrtc
def test_what_does_not_compile_says_why() -> None:
    with pytest.raises(nvrtc.CompileError, match=r'one.cu\(2\): error: identifier "VALUE" is undefined'):
        nvrtc.cubin("one.cu", SOURCES, "sm_90", {})


def test_without_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend steps aside with the reason, before any work."""
    monkeypatch.setattr(nvrtc, "_candidates", lambda: iter(["libno_such_library.so"]))
    nvrtc.load.cache_clear()
    try:
        assert cuda_backend.load() == (None, "torch brings no NVRTC here and the system has none")
        with pytest.raises(backends.Unsupported, match="torch brings no NVRTC here"):
            nvrtc.cubin("one.cu", SOURCES, "sm_90", {"VALUE": 1})
    finally:
        nvrtc.load.cache_clear()


@needs_nvrtc
def test_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "load", lambda: (None, "no NVIDIA driver"))
    assert cuda_backend.load() == (None, "no NVIDIA driver")


def test_cpu_tensors_are_refused() -> None:
    with pytest.raises(
        BackendError, match=r"'cuda' cannot run selective_scan: cpu tensors: these kernels need an NVIDIA"
    ):
        selective_scan(**scan_inputs(), backend="cuda")  # type: ignore[arg-type]


def test_chosen_only_when_asked_for() -> None:
    """Until they have been timed, only Triton's kernels run by default."""
    for op in backends.find("cuda").ops:
        assert [backend.name for backend in backends.order(op, "cuda")] == ["triton", "reference"]


def test_numbers_that_two_languages_share() -> None:
    """Constants of the kernels that the launchers know too."""
    common, forward = (cuda_backend.sources()[name] for name in ("cuda_common.cuh", "cuda_scan.cu"))
    names = re.search(r"enum \{(.*?)\};", common, re.DOTALL)
    assert names is not None
    orders = re.findall(r"^\s+(\w+)", names[1], re.MULTILINE)
    assert [getattr(cuda_scans, name) for name in orders] == [0, 1, 2, 3, 4]
    assert "constexpr int TILE = 8;" in forward


def test_addresses_on_a_gpu_are_taken() -> None:
    """On a GPU tensors do not lie in this process's memory; those of C kernels must."""

    class OnGpu:
        device, shape, is_cpu = torch.device("cuda", 0), (2,), False
        data_ptr, numel = lambda self: 4096, lambda self: 2

    tensor: Any = OnGpu()
    assert abi.device_address(tensor) == 4096
    with pytest.raises(ValueError, match="expected all on cpu, got one on cuda:0"):
        abi.address(tensor)


@pytest.mark.gpu
def test_runs_on_a_gpu() -> None:
    """Forward and gradients of the compiled kernels against the float64 reference, on the device that is here."""
    from ops_helpers import assert_matches_reference

    sizes: dict[str, Any] = dict(length=35, channels=70, states=16, rank=12, directions=4)
    tensors = {n: None if t is None else t.cuda() for n, t in path_inputs(**sizes).items()}
    assert_matches_reference(scan_paths, tensors, backend="cuda", paths=CROSS, grid=(5, 7))
    tensors = {n: None if t is None else t.cuda() for n, t in scan_inputs(groups=1).items()}
    assert_matches_reference(selective_scan, tensors, backend="cuda", delta_softplus=True)
