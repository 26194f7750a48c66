"""``benchmarks/gpu.py`` without a GPU: all but the events it times with, on tiny shapes and with a made-up clock."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vimzoo.ops.runtime import native

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytest.importorskip("matplotlib", reason="the extra `train` is not installed")
pytestmark = pytest.mark.skipif(native.load()[0] is None, reason="no native library")


@pytest.fixture(scope="module")
def scripts() -> Iterator[SimpleNamespace]:
    """The benchmark's modules."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        names = (
            "common",
            "compositions",
            "gpu",
            "gpu_bench",
            "gpu_charts",
            "gpu_models",
            "gpu_parts",
            "gpu_shapes",
        )
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(BENCHMARKS))


def made_up(scripts: SimpleNamespace, **settings: Any) -> Any:
    """The CPU, on which each call takes 2 ms and 64 MiB."""

    def seconds_of(call: Callable[[], Any]) -> float:
        call()
        return 2e-3

    def peak_of(call: Callable[[], Any]) -> int:
        call()
        return 64 * 2**20

    absent = {name: "not here" for name in ("mamba_ssm", "causal_conv1d")}
    return scripts.gpu_bench.Bench(torch.device("cpu"), seconds_of, peak_of, absent=absent, **settings)


@pytest.fixture
def results(scripts: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where results go instead."""
    folder = tmp_path / "benchmarks" / "results"
    monkeypatch.setattr(scripts.common, "RESULTS", folder)
    return folder / "a-gpu"


def tiny(scripts: SimpleNamespace) -> list[Any]:
    Layer = scripts.gpu_shapes.Layer
    return [Layer("Vim", 2, (1, 5), 8, 4, 3), Layer("VMamba", 1, (3, 4), 8, 1, 2)]


def test_everything(
    scripts: SimpleNamespace,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Rows of every kind, in JSON, as tables and in two charts."""
    monkeypatch.setattr(torch, "compile", lambda model: model)
    bench = made_up(scripts, dtype=torch.float32)
    scripts.gpu.run(bench, "A GPU", shapes=tiny(scripts), names=("test_vim", "test_vit"), sizes=(160,))
    found = {path.stem: json.loads(path.read_text()) for path in results.glob("*.json")}
    assert set(found) == {"gpu_check", "gpu_scans", "gpu_models"}
    assert all(entry["machine"]["absent"]["mamba_ssm"] == "not here" for entry in found.values())
    checked = found["gpu_check"]["rows"]
    assert {(row["kernel"], row["dtype"]) for row in checked} == {
        (kernel, dtype) for kernel in ("cpu", "unfused") for dtype in ("float32", "bfloat16")
    }
    assert all(row["right"] for row in checked)
    scans = found["gpu_scans"]["rows"]
    ours = next(row for row in scans if (row["kernel"], row["pass"]) == ("cpu", "forward"))
    assert ours["median"] == 2e-3 and ours["ns"] == pytest.approx(2e-3 / (2 * 5 * 8 * 2) * 1e9)
    assert {row["pass"] for row in scans} == {"forward", "forward+backward"}
    assert sum(row.get("op") == "causal_conv1d" for row in scans) == 1
    models = found["gpu_models"]["rows"]
    assert {(row["model"], row["pass"], row["mode"]) for row in models} == {
        (model, way, mode)
        for model in ("test_vim", "test_vit")
        for way in ("inference", "training")
        for mode in ("eager", "compiled")
    }
    assert all(row["images_per_second"] == 1000 and row["peak_MB"] == 64 for row in models)
    assert {path.name for path in results.glob("*.png")} == {"gpu_speed.png", "gpu_memory.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in results.glob("*.png"))
    assert "images_per_second" in capsys.readouterr().out


def test_what_is_wrong_is_not_timed(
    scripts: SimpleNamespace, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed = scripts.gpu_parts.unfused
    monkeypatch.setattr(scripts.gpu_parts, "unfused", lambda *args: composed(*args) * 1.01)
    with pytest.raises(SystemExit, match=r"these are wrong: unfused$"):
        scripts.gpu.run(made_up(scripts), "A GPU", shapes=tiny(scripts))
    assert {path.name for path in results.iterdir()} == {"gpu_check.json"}


def test_what_does_not_run_is_absent(scripts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    fused = scripts.gpu_parts.scan_paths

    def broken(*args: Any, backend: str | None = None, **settings: Any) -> Any:
        if backend == "cpu":
            raise RuntimeError("no kernel image\nand more")
        return fused(*args, backend=backend, **settings)

    monkeypatch.setattr(scripts.gpu_parts, "scan_paths", broken)
    bench = made_up(scripts)
    rows = scripts.gpu_parts.check(bench, tiny(scripts)[:1])
    assert {(row["kernel"], row.get("failed")) for row in rows} == {
        ("cpu", "no kernel image"),
        ("unfused", None),
    }
    assert bench.absent["cpu"] == "no kernel image" and scripts.gpu_bench.our_backends(bench) == []


def test_errors(scripts: SimpleNamespace) -> None:
    truth = torch.tensor([1.0, -4.0], dtype=torch.float64)
    assert scripts.gpu_parts.largest_error([torch.tensor([1.1, -4.0])], [truth]) == pytest.approx(0.1 / 4)
    assert scripts.gpu_parts.largest_error([torch.tensor([1.0, float("nan")])], [truth]) == float("inf")


def test_failures_are_rows(scripts: SimpleNamespace) -> None:
    """One variant that cannot run does not take the others along."""
    times = made_up(scripts).measure({"good": lambda: 1, "bad": lambda: 1 / 0, "big": memory_runs_out})
    assert times["good"]["median"] == 2e-3 and times["good"]["rounds"] >= 3
    assert times["bad"] == {"failed": "division by zero"}
    assert times["big"] == {"failed": "out of memory"}


def memory_runs_out() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")


def test_time_is_kept(scripts: SimpleNamespace) -> None:
    """What no time is left for is written down as such."""
    bench = made_up(scripts, until=time.monotonic() - 1)
    shapes = tiny(scripts)
    ceilings = scripts.gpu_shapes.Ceilings(1e9, 1e9, None)
    rows = scripts.gpu_parts.scans(bench, shapes, ceilings) + scripts.gpu_models.models(
        bench, ["test_vim"], [160]
    )
    assert len(rows) == 2 + 4 and all(row["failed"] == "no time left" for row in rows)


def test_shapes(scripts: SimpleNamespace) -> None:
    """Every shape that is to be compared; bytes and elements of one by hand."""
    shapes = {layer.name: layer for layer in scripts.gpu_shapes.layers()}
    assert len(shapes) == 2 * 3 * 3 + 4 * 2 * 2 + 2 * 4
    for name in ("Vim-S 1x6085, B 8", "VMamba-T stage 4 7x7, B 128", "MambaIR light 512x512, B 1"):
        assert name in shapes
    stage = shapes["VMamba-T stage 1 56x56, B 128"]
    assert stage.elements == 128 * 56 * 56 * 96 * 4
    # x in and y out 154 MB, rows of four directions 26 MB: 8 values of 2 bytes each
    assert stage.least_bytes() == 2 * 128 * 3136 * (2 * 96 + 4 * 8)
    vim = shapes["Vim-T 1x197, B 64"]
    assert vim.least_bytes() == 2 * 64 * 197 * (4 * 384 + 2 * 44)
    assert vim.small().grid == (1, 197) and vim.small().batch == 1 and stage.small().grid == (14, 14)


def test_ceilings(scripts: SimpleNamespace) -> None:
    """A copy at 1 GB/s moves 1 MB in 1 ms; 32e6 elements at 100 slots are 1e8 warp instructions."""
    ceilings = scripts.gpu_shapes.Ceilings(1e9, 1.0, 1e11)
    assert ceilings.of_bandwidth(10**6, 4e-3) == pytest.approx(0.25)
    assert ceilings.of_issue(100.0, 32 * 10**6, 2e-3) == pytest.approx(0.5)
    assert ceilings.of_issue(None, 1, 1.0) is None
    measured = made_up(scripts).ceilings()
    assert measured.copy_bytes == 2 * 64 * 64 * 8 * 4 / 2e-3 and measured.product_flops == 2 * 64**3 / 2e-3
    counted = {
        version: scripts.gpu_shapes.counted_slots("triton", 16, "forward", version)
        for version in ("3.4", "3.9")
    }
    assert 400 < counted["3.4"] < 600 and 200 < counted["3.9"] < 300
    assert scripts.gpu_shapes.counted_slots("triton", 16, "forward", "99.0") is None
    assert scripts.gpu_shapes.counted_slots("cpu", 16, "forward") is None


def test_curves(scripts: SimpleNamespace) -> None:
    """Over resolution, in eager mode, memory for each image of a batch."""
    row = {"mode": "eager", "pass": "inference", "model": "Vim-T", "images": 4}
    rows = [
        row | {"px": 512, "peak_MB": 8.0},
        row | {"px": 224, "peak_MB": 4.0},
        row | {"px": 300, "failed": "x"},
    ]
    rows.append(row | {"px": 224, "peak_MB": 1.0, "mode": "compiled"})
    assert scripts.gpu_charts.series(rows, "peak_MB", "inference") == {"Vim-T": [(224, 1.0), (512, 2.0)]}


def test_needs_a_gpu(scripts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        scripts.gpu.main(["--minutes", "1"])


@pytest.mark.gpu
def test_on_a_gpu(scripts: SimpleNamespace, results: Path) -> None:
    bench = scripts.gpu_bench.cuda_bench(1.0)
    scripts.gpu.run(bench, "A GPU", parts=("scans",), shapes=tiny(scripts))
    rows = json.loads((results / "gpu_scans.json").read_text())["rows"]
    assert any(row.get("median", 0) > 0 for row in rows)
