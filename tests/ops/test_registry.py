"""A backend is one file: dispatch, the doctor, the documents and the tests of the ops find it in the registry."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vimzoo.ops import backends

HERE = Path(__file__).resolve().parent
TOY = """
from collections import Counter
from vimzoo.ops import backends

reference, calls = backends.find("reference"), Counter()

def counted(op):
    def function(call, *gradients):
        calls[op] += 1
        return reference.ops[op](call, *gradients)
    return function

backends.register(backends.Backend(
    name="toy", devices={"cpu": None}, ops={op: counted(op) for op in reference.ops}, load=lambda: (True, "1.0"),
    description="a toy, release {}",
))

def pytest_unconfigure(config):
    assert calls.keys() == reference.ops.keys(), calls
    print("every operator ran on the toy")
"""


@pytest.fixture
def toy(tmp_path: Path) -> dict[str, str]:
    """An environment in which ``import toy`` registers a backend that is that one file."""
    (tmp_path / "toy.py").write_text(TOY)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""}


def test_a_toy_backend_runs_through_the_tests_of_the_ops(toy: dict[str, str]) -> None:
    files = [
        str(HERE / f"test_{name}.py") for name in ("op_contract", "raw_calls", "scan_paths", "scan_carried")
    ]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "toy",
        "-k",
        "toy",
        *files,
    ]
    done = subprocess.run(command, env=toy, capture_output=True, text=True, cwd=HERE.parents[1], check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "every operator ran on the toy" in done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) > 60 and "skipped" not in done.stdout


def test_a_toy_backend_is_examined_and_can_be_forced(toy: dict[str, str]) -> None:
    code = """
import toy, torch
from vimzoo import doctor
from vimzoo.ops import add_norm, use_backend
with use_backend("toy"):
    add_norm(torch.ones(1, 4), None, torch.ones(4))
assert toy.calls == {"add_norm": 1}
add_norm(torch.ones(1, 4), None, torch.ones(4))
assert toy.calls == {"add_norm": 1}  # it has no rank
doctor.main([])
"""
    done = subprocess.run([sys.executable, "-c", code], env=toy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"backend toy +\d+\.\d+ ns per element +a toy, release 1\.0", done.stdout)


def test_ranks_decide_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lowest first; ``None`` and other devices never."""
    monkeypatch.setattr(backends, "_REGISTRY", {})
    monkeypatch.setattr(backends, "_ORDERS", {})
    for name, devices in (
        ("last", {backends.ANY: 9}), ("first", {"cpu": 0}), ("asked", {"cpu": None}), ("gpu", {"cuda": 10}),
    ):  # fmt: skip
        backends.register(backends.Backend(name, devices, {"scan_paths": print}, lambda: (True, "")))
    assert [backend.name for backend in backends.order("scan_paths", "cpu")] == ["first", "last"]
    assert [backend.name for backend in backends.order("scan_paths", "cuda")] == ["last", "gpu"]
    assert [backend.name for backend in backends.order("scan_paths", "xpu")] == ["last"]
    assert backends.order("add_norm", "cpu") == ()
    with pytest.raises(ValueError, match="name: a backend 'first' is registered already"):
        backends.register(backends.Backend("first", {}, {}, lambda: (True, "")))


def test_the_documentation_names_every_backend() -> None:
    text = (HERE.parents[1] / "docs" / "kernels.md").read_text()
    table = text.split("## The implementations")[1].split("\n\n")[1]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [b.name for b in backends.registered()]
