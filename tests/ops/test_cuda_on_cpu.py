"""The CUDA kernels' real source on the CPU, one fibre per CUDA thread, against the reference: forward and gradients."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cuda_runner import COMPILER, SHARED, Runner, on_cpu
from gpu_cases import ACTIVATIONS, PATHS, SCANS, SHORT_SCANS, TABLE, assert_restores_states, far_apart
from ops_helpers import (
    HALF_TOLERANCE,
    assert_matches_reference,
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
    path_arguments,
    scan_paths,
    selective_scan,
)
from vimzoo.ops.runtime import cuda_backend
from vimzoo.ops.scan import cuda_scans, gpu_scans
from vimzoo.ops.scan.call import ScanCall

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """Libraries are kept for the session, and shared by its processes."""
    session = tmp_path_factory.getbasetemp()
    session = session.parent if "PYTEST_XDIST_WORKER" in os.environ else session
    with on_cpu(session / "cuda_on_cpu") as runner:
        yield runner


@pytest.mark.parametrize("name", PATHS)
def test_scan_paths(name: str) -> None:
    sizes, settings = PATHS[name]
    assert_matches_reference(scan_paths, path_inputs(**sizes), backend="cuda", **settings)


@pytest.mark.parametrize("name", SCANS)
def test_selective_scan(name: str) -> None:
    sizes, settings = SCANS[name]
    assert_matches_reference(selective_scan, scan_inputs(**sizes), backend="cuda", **settings)


MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Vim, blocks of one warp": (
        dict(batch=1, length=41, channels=70, states=16, rank=12, own=True),
        dict(paths=BIDIRECTIONAL),
    ),
    "Vim-base's rank": (
        dict(batch=1, length=9, channels=33, states=16, rank=48, own=True),
        dict(paths=BIDIRECTIONAL),
    ),
    "VMamba": (
        dict(length=35, channels=40, states=1, rank=6, directions=4, optional="D"),
        dict(paths=CROSS, grid=(5, 7)),
    ),
    "MambaIR light": (
        dict(batch=1, length=66, channels=36, states=10, rank=4, directions=4, optional="D"),
        dict(paths=CROSS, grid=(6, 11)),
    ),
}


@pytest.mark.parametrize("tile", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_layers(name: str, tile: bool, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms of the forward scan, where a layer has two."""
    sizes, settings = MODELS[name]
    if not tile:
        monkeypatch.setattr(cuda_scans, "tile_of", lambda walk, limit: None)
    elif sizes.get("own"):
        pytest.skip("each direction has its own x, which no tile holds")
    assert_matches_reference(scan_paths, path_inputs(**sizes), backend="cuda", **settings)
    assert ("scan_tile" in {name for name, _ in runner.launched}) == tile


TILES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "over spans, gated": (
        dict(batch=1, length=99, channels=33, states=3, rank=5, directions=4),
        dict(paths=CROSS, grid=(9, 11)),
    ),
    "two of one x": (dict(length=33, states=2, rank=4, optional="z"), dict(paths=BIDIRECTIONAL)),
    "shared parameters": (
        dict(length=12, states=1, directions=4, shared="x_dbl A dt_weight dt_bias D", optional="D"),
        dict(paths=CROSS, grid=(3, 4)),
    ),
}


@pytest.mark.parametrize("limit", [40_000, 8_000])
@pytest.mark.parametrize("name", TILES)
def test_tiles(name: str, limit: int, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 32 channels, or as few as the shared memory at hand holds; saved states serve the backward pass."""
    monkeypatch.setattr(cuda_backend, "shared_limit", lambda device: limit)
    sizes, settings = TILES[name]
    tensors = path_inputs(**sizes)
    assert_matches_reference(scan_paths, tensors, backend="cuda", **settings)
    tiles = [constants for kernel, constants in runner.launched if kernel == "scan_tile"]
    assert tiles and all(constants["SHARED_BYTES"] <= limit for constants in tiles)
    if sizes["length"] == 99:
        assert {constants["LANES"] for constants in tiles} == ({32} if limit == 40_000 else {8})
    runner.last_first = True
    expected = run_with_gradients(scan_paths, tensors, backend="cuda", **settings)
    runner.last_first = False
    found = run_with_gradients(scan_paths, tensors, backend="cuda", **settings)
    for values, truths in zip(found, expected, strict=True):
        assert all(torch.equal(value, truths[key]) for key, value in values.items())


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33])
@pytest.mark.parametrize("paths", [BIDIRECTIONAL, CROSS[1::2]])
def test_pairs(length: int, paths: tuple[ScanPath, ...], runner: Runner) -> None:
    """A path and its reverse meet in the middle, in one tile of 8 steps or between two; either may be the first."""
    gated = "D z" if length % 2 else "D"
    tensors = path_inputs(batch=1, length=length, channels=37, states=2, own=True, optional=gated)
    settings: dict[str, Any] = dict(paths=paths, grid=(length, 1))
    truth = scan_paths(**tensors, backend="reference", **settings)  # type: ignore[arg-type]
    found = scan_paths(**tensors, backend="cuda", **settings)  # type: ignore[arg-type]
    assert [name for name, _ in runner.launched] == ["scan_forward"] and runner.launched[0][1][
        "THREADS"
    ] == 64
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-5)
    runner.last_first = True
    assert torch.equal(scan_paths(**tensors, backend="cuda", **settings), found)  # type: ignore[arg-type]


def test_longer_spans(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where threads are too few for 32 steps each."""
    monkeypatch.setattr(cuda_scans, "MOST_TILE_THREADS", 64)
    tensors = path_inputs(batch=1, length=150, channels=5, states=1, directions=4, optional="")
    assert_matches_reference(scan_paths, tensors, backend="cuda", paths=CROSS, grid=(10, 15))
    (tile,) = [constants for kernel, constants in runner.launched if kernel == "scan_tile"]
    assert (tile["SPAN"], tile["BLOCK"]) == (128, 64)


@pytest.mark.parametrize(("rank", "load"), [(6, 16), (4, 4), (3, 2)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tile_loads(rank: int, load: int, dtype: torch.dtype, runner: Runner) -> None:
    """Rows of half precision are read 16 bytes, 4 bytes or one value at a time, as they lie."""
    tensors = path_inputs(length=35, states=1, rank=rank, directions=4, optional="D")
    tensors = with_dtype(tensors, dtype, ACTIVATIONS)
    tolerances = (HALF_TOLERANCE, HALF_TOLERANCE)
    settings: dict[str, Any] = dict(backend="cuda", tolerances=tolerances, paths=CROSS, grid=(5, 7))
    assert_matches_reference(scan_paths, tensors, **settings)
    assert runner.launched[0][1]["LOAD"] == load


def test_tile_of_rows_that_lie_askew(runner: Runner) -> None:
    tensors = with_layout(path_inputs(length=12, states=1, rank=6, directions=4, optional="D"), "offset")
    assert_matches_reference(scan_paths, tensors, backend="cuda", paths=CROSS, grid=(3, 4))
    assert runner.launched[0][0] == "scan_tile" and runner.launched[0][1]["LOAD"] == 4


def test_tiles_are_for_few_images() -> None:
    """Many images keep a GPU busy without working everything out twice."""

    def tile(batch: int, side: int = 7, channels: int = 768) -> cuda_scans.Tile | None:
        t = path_inputs(batch=batch, length=side * side, channels=channels, directions=4, states=1)
        codes, table = path_arguments(CROSS, side, side)
        call = ScanCall(**t, codes=codes, table=table, height=side, width=side, merge=True)  # type: ignore[arg-type]
        return cuda_scans.tile_of(gpu_scans.Walk.of_paths(call), SHARED)

    few = tile(1)
    assert few is not None and (few.lanes, few.span, few.threads) == (32, 32, 64)
    assert tile(16) is None
    assert tile(1, side=128, channels=8) is None  # does not fit


def test_blocks_of_two_warps(monkeypatch: pytest.MonkeyPatch, runner: Runner) -> None:
    """As where there is work for every processor; sums over channels then meet between warps."""
    monkeypatch.setattr(cuda_scans, "ENOUGH_WARPS", 0)
    for merge in (True, False):
        tensors = path_inputs(batch=1, length=35, channels=70, states=3, own=True, optional="D")
        assert_matches_reference(scan_paths, tensors, backend="cuda", paths=BIDIRECTIONAL, merge=merge)
    table = tuple(ScanPath.from_table(numbers) for numbers in ([2, -1, 0, 4], [5, 5, 1, -1]))
    tensors = path_inputs(batch=1, length=6, channels=70, states=3)
    assert_matches_reference(scan_paths, tensors, backend="cuda", paths=table)
    tensors = scan_inputs(batch=1, channels=140, length=35, groups=2, states=3)
    assert_matches_reference(selective_scan, tensors, backend="cuda", delta_softplus=True)
    scans = [constants for name, constants in runner.launched if name.startswith("scan_")]
    assert scans and all(constants["BLOCK"] == 64 for constants in scans)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SHORT_SCANS)
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    function, make, settings = SHORT_SCANS[name]
    tensors = with_dtype(make(), dtype, ACTIVATIONS)
    tolerances = (HALF_TOLERANCE, HALF_TOLERANCE)
    assert_matches_reference(function, tensors, backend="cuda", tolerances=tolerances, **settings)


def test_mixed_precision() -> None:
    """mamba_ssm's users pass B and C in another dtype than u."""
    tensors = with_dtype(scan_inputs(states=3, length=9), torch.bfloat16, "u delta z")
    tolerances = (HALF_TOLERANCE, HALF_TOLERANCE)
    assert_matches_reference(
        selective_scan, tensors, backend="cuda", tolerances=tolerances, delta_softplus=True
    )


@pytest.mark.parametrize("layout", ["transposed", "strided", "offset"])
@pytest.mark.parametrize("name", SHORT_SCANS)
def test_layouts(name: str, layout: str) -> None:
    function, make, settings = SHORT_SCANS[name]
    assert_matches_reference(function, with_layout(make(), layout), backend="cuda", **settings)


@pytest.mark.parametrize("name", [*PATHS, *SCANS])
def test_order_of_threads(name: str, runner: Runner) -> None:
    """Threads in the opposite order: where a barrier were missing, something would be read before it is written."""
    function = scan_paths if name in PATHS else selective_scan
    sizes, settings = PATHS[name] if name in PATHS else SCANS[name]
    tensors = path_inputs(**sizes) if name in PATHS else scan_inputs(**sizes)
    expected = run_with_gradients(function, tensors, backend="cuda", **settings)
    runner.last_first = True
    found = run_with_gradients(function, tensors, backend="cuda", **settings)
    for values, truths in zip(found, expected, strict=True):
        assert all(torch.equal(value, truths[key]) for key, value in values.items())


PROBE = """
#include "arguments.h"
struct Values {{ int of[BLOCK]; }};
extern "C" __global__ void probe(const Arguments a) {{
    SHARED(Values, shared);
    const int i = threadIdx.x;
    shared.of[i] = i;
    {barrier}
    ((int*)a.out)[i] = shared.of[(i + 1) % BLOCK];
}}
"""


@pytest.mark.parametrize(
    ("barrier", "same"), [("__syncthreads();", True), ("", False), ("if (i) __syncthreads();", None)]
)
def test_what_a_barrier_is_worth(
    barrier: str, same: bool | None, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that lacks a barrier depends on the threads' order here; one that some threads never reach is found."""
    texts = {**cuda_backend.sources(), "probe.cu": PROBE.format(barrier=barrier)}
    monkeypatch.setattr(cuda_backend, "sources", lambda: texts)
    out = torch.zeros(64, dtype=torch.int32)
    arguments = cuda_backend.ScanArguments(out=out.data_ptr())

    def neighbours(last_first: bool) -> list[int]:
        runner.last_first = last_first
        runner("probe.cu", "probe", {"BLOCK": 64}, (1, 1), arguments, out.device)
        return out.tolist()

    if same is None:
        with pytest.raises(AssertionError, match="barrier that others never reach"):
            neighbours(False)
        return
    assert (neighbours(False) == neighbours(True)) == same
    assert (out.tolist() == [*range(1, 64), 0]) == same


@pytest.mark.parametrize(("name", "axis"), [("x", 0), ("x_dbl", 1), ("z", 0)])
def test_offsets_beyond_32_bits(name: str, axis: int) -> None:
    tensors = with_dtype(path_inputs(batch=4, length=4, directions=1, states=1), torch.bfloat16, ACTIVATIONS)
    expected = run_with_gradients(scan_paths, tensors, backend="cuda", paths=BIDIRECTIONAL[1:])
    given = tensors[name]
    assert given is not None
    far = {**tensors, name: far_apart(given, axis)}
    found = run_with_gradients(scan_paths, far, backend="cuda", paths=BIDIRECTIONAL[1:])
    for values, truths in zip(found, expected, strict=True):
        assert all(torch.equal(value, truths[key]) for key, value in values.items())


def test_refuses_tokens_too_far_apart() -> None:
    tensors = path_inputs(batch=1, length=2, directions=1, states=1)
    far = {**tensors, "x_dbl": far_apart(tensors["x_dbl"], 1)}  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="4 GB or more from one token to the next"):
        scan_paths(**far, paths=BIDIRECTIONAL[:1], backend="cuda")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SHORT_SCANS)
def test_no_images(name: str, runner: Runner) -> None:
    function, make, settings = SHORT_SCANS[name]
    tensors = {n: t[:0] if t is not None and n in ACTIVATIONS.split() else t for n, t in make().items()}
    outputs, gradients = run_with_gradients(function, tensors, backend="cuda", **settings)
    assert all(not value.numel() for value in outputs.values())
    assert all(not value.any() for value in gradients.values())
    assert not runner.launched


@pytest.mark.parametrize("name", ["scan_paths", "scan_paths_table"])
def test_slices_of_images(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_scans, "SCRATCH_BYTES", 1)
    function, make, settings = SHORT_SCANS[name]
    assert_matches_reference(function, make(), backend="cuda", **settings)


@pytest.mark.parametrize("name", SHORT_SCANS)
def test_reference_ran_the_forward_pass(name: str) -> None:
    assert_restores_states("cuda", name)


def test_refuses_what_others_run() -> None:
    refusals: list[tuple[str, dict[str, Any]]] = [
        ("17 states and 3 dt columns; at most 16 and 64", path_inputs(states=17)),
        ("8 states and 65 dt columns", path_inputs(rank=65)),
        ("torch.float64 on cpu", {n: None if t is None else t.double() for n, t in path_inputs().items()}),
    ]
    for reason, tensors in refusals:
        with pytest.raises(BackendError, match=reason):
            scan_paths(**tensors, paths=BIDIRECTIONAL, backend="cuda")
    with pytest.raises(BackendError, match="constant B or C"):
        selective_scan(**scan_inputs(groups=None), backend="cuda")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("states", [1, 10, 16])
@pytest.mark.parametrize("paths", ["one", "two", "four", "table"])
@pytest.mark.parametrize("optional", ["", "D z"])
def test_grid(dtype: torch.dtype, states: int, paths: str, optional: str) -> None:
    """Every combination at an odd length with channels that fill no warp."""
    chosen = {"one": BIDIRECTIONAL[1:], "two": BIDIRECTIONAL, "four": CROSS, "table": TABLE}[paths]
    tensors = path_inputs(
        length=35, channels=37, directions=len(chosen), states=states, own=paths == "two", optional=optional
    )
    tolerance = {} if dtype == torch.float32 else {"tolerances": (HALF_TOLERANCE, HALF_TOLERANCE)}
    tensors = with_dtype(tensors, dtype, ACTIVATIONS)
    assert_matches_reference(scan_paths, tensors, backend="cuda", paths=chosen, grid=(5, 7), **tolerance)  # type: ignore
