"""onnxruntime with our operators: the same numbers, with any paths and threads.

tests/crossings has the like of OpenVINO.
"""

from __future__ import annotations

import shutil
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vimzoo
from vimzoo import exporting
from vimzoo.errors import UsageError
from vimzoo.exporting import running
from vimzoo.ops.runtime import native

runtime = pytest.importorskip("onnxruntime", reason="needs the extra vimzoo[export]")
pytest.importorskip("onnx_ir", reason="needs the extra vimzoo[export]")

from walks import WALKS, cases  # noqa: E402


@pytest.fixture
def library() -> Path:
    if native.load()[0] is None or not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("needs the CPU kernels and a C++ compiler")
    return vimzoo.onnxruntime_extension()


def session(file: Path, library: Path | None, threads: int = 1) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    if library is not None:
        options.register_custom_ops_library(str(library))
    return runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", WALKS)
def test_our_scan_is_the_operator(name: str, threads: int, library: Path, tmp_path: Path) -> None:
    for feeds, want in cases(name, torch.float32, tmp_path / "scan.onnx"):
        running = session(tmp_path / "scan.onnx", library, threads)
        for _ in range(3):
            found = torch.from_numpy(running.run(None, feeds)[0])
            torch.testing.assert_close(found, want)


def test_it_is_used(library: Path, tmp_path: Path) -> None:
    """In place of the function in the file: a profile has its node and no loop."""
    feeds, _ = next(cases("cross", torch.float32, tmp_path / "scan.onnx"))
    kinds = []
    for ours in (None, library):
        options = runtime.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
        if ours is not None:
            options.register_custom_ops_library(str(ours))
        running = runtime.InferenceSession(
            str(tmp_path / "scan.onnx"), options, providers=["CPUExecutionProvider"]
        )
        running.run(None, feeds)
        kinds.append(Path(running.end_profiling()).read_text())
    assert '"op_name" : "Scan"' in kinds[0] and '"ScanPaths"' not in kinds[0]
    assert '"op_name" : "Scan"' not in kinds[1] and '"ScanPaths"' in kinds[1]


@pytest.mark.parametrize("name", ["test_vim", "test_vmamba", "test_mambair"])
def test_files_of_our_operators(name: str, library: Path, tmp_path: Path) -> None:
    """The exporter compares them with PyTorch in several sizes; here with one thread and with two."""
    (written,) = exporting.export(name, "onnxruntime", tmp_path / "model.own.onnx", random=True)
    assert written.worst.difference <= exporting.BOUND
    x = torch.rand(3, 3, 64, 64).numpy()
    want, found = (session(written.path, library, threads).run(None, {"images": x})[0] for threads in (1, 2))
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(want))


def test_files_of_our_operators_in_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library cannot be built they end in one line."""
    written = exporting.Source(
        nn.Sequential(Channels(), nn.LayerNorm(8)).eval(), torch.rand(2, 8, 4, 4), False, {}
    )
    exporting.FORMATS["onnxruntime"].save(written, tmp_path / "file.own.onnx")

    def missing() -> Path:
        raise UsageError("onnxruntime_extension: needs a C++ compiler")

    running._library.cache_clear()
    monkeypatch.setattr(running, "onnxruntime_extension", missing)
    with pytest.raises(
        UsageError, match=r"file\.own\.onnx: has operators of our own, .* needs a C\+\+ compiler"
    ):
        running.exported(str(tmp_path / "file.own.onnx"), "onnxruntime")
    running._library.cache_clear()


class Channels(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("missing", ["runtime", "compiler", "kernels"])
def test_what_an_extension_needs(missing: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In words that name the remedy."""
    spec = util.find_spec("onnxruntime")
    monkeypatch.setattr(util, "find_spec", lambda name: None if missing == "runtime" else spec)
    monkeypatch.setattr(shutil, "which", lambda name: None if missing == "compiler" else f"/bin/{name}")
    monkeypatch.setattr(native, "load", lambda: (None, "the reason"))
    make = getattr(vimzoo, f"{name}_extension")
    make.cache_clear()
    extra = {"openvino": "openvino", "onnxruntime": "export"}[name]
    expected = {
        "runtime": f"needs {name}; pip install 'vimzoo\\[{extra}\\]'",
        "compiler": "expected c\\+\\+, g\\+\\+",
        "kernels": "needs the CPU kernels: the reason",
    }
    with pytest.raises(UsageError, match=f"{name}_extension: .*{expected[missing]}"):
        make()
