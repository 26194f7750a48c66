"""``python -m vimzoo.doctor``: what it says on a whole installation and on one that lacks parts."""

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vimzoo import doctor
from vimzoo.errors import UsageError
from vimzoo.ops.backends import mamba_ssm
from vimzoo.ops.runtime import cuda_backend, native, onnxruntime, openvino, shortfalls

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert doctor.main(arguments) == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("needs_native")
def test_whole_installation(capsys: pytest.CaptureFixture[str]) -> None:
    report: dict[str, Any] = json.loads(run(capsys, "--json"))
    assert set(report["versions"]) == {"vimzoo", "python", "torch", "torchvision", "timm", "numpy"}
    speeds = {
        backend["name"]: backend["ns_per_element"] for backend in report["backends"] if backend["loads"]
    }
    assert set(speeds) == {"reference", "cpu"}
    assert 0 < speeds["cpu"] < speeds["reference"]
    text = run(capsys)
    assert f"instruction set {native.load()[1]}" in text and "ns per element" in text


def test_without_a_compiler(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load", lambda: (None, "the native library was not built (why)"))
    text = run(capsys)
    assert "backend cpu        does not load          the native library was not built (why)" in text
    assert "missing native CPU library: the native library was not built (why)" in text
    assert shortfalls.price("reference") in text and f"pip install -e {native.checkout()}" in text
    (cpu,) = (b for b in json.loads(run(capsys, "--json"))["backends"] if b["name"] == "cpu")
    assert cpu["loads"] is False and cpu["ns_per_element"] is None


def test_gpu_backends_say_what_they_lack(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line each; mamba_ssm is looked for, and imported only where it is asked for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cuda_backend, "load", lambda: ("NVRTC 13.2", ""))
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: object() if name == "mamba_ssm" else find(name)
    )
    report = json.loads(run(capsys, "--json"))
    details = {b["name"]: b["detail"] for b in report["backends"] if not b["loads"]}
    assert details["cuda"] == "NVRTC 13.2, but no GPU"
    assert details["mamba_ssm"].startswith("installed, not imported: VIMZOO_BACKEND=mamba_ssm")
    assert "triton" in details
    monkeypatch.setattr(cuda_backend, "load", lambda: (None, "no NVIDIA driver"))
    monkeypatch.setenv("VIMZOO_BACKEND", "mamba_ssm")
    monkeypatch.setattr(mamba_ssm, "load_scan", lambda: (None, "mamba-ssm cannot be imported: why"))
    text = run(capsys)
    assert re.search(r"backend cuda +does not load +no NVIDIA driver", text)
    assert re.search(r"backend mamba_ssm +does not load +mamba-ssm cannot be imported: why", text)


def test_commands_that_cannot_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with the packages that it lacks, by pip's names, and what installs them."""
    absent = {"hydra-core", "scikit-learn", "imagecodecs", "onnxruntime", "gradio"}
    version = importlib.metadata.version

    def installed(name: str) -> str:
        if name in absent:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", installed)
    monkeypatch.setattr(doctor, "examine_backends", list)
    found = {item["remedy"]: item for item in json.loads(run(capsys, "--json"))["missing"]}
    packages = {
        extra: found[f"pip install 'vimzoo[{extra}]'"]["what"]
        for extra in ("train", "restore", "export", "demo")
    }
    assert packages == {
        "train": "hydra-core, scikit-learn",
        "restore": "imagecodecs",
        "export": "onnxruntime",
        "demo": "imagecodecs, gradio",
    }
    assert "`python -m vimzoo.restore` does not run\n    pip install 'vimzoo[restore]'" in run(capsys)


def test_extras_exist_as_the_doctor_names_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From pyproject.toml of a checkout, and from the metadata of an installed package alike."""
    found = {extra: doctor.packages_of(extra) for extra in doctor.COMMANDS}
    assert all(found.values()) and {"pillow", "imagecodecs", "gradio"} <= set(found["demo"])
    metadata = [
        "torch>=2.8",
        'gradio>=5; extra == "demo"',
        "vimzoo[restore,x]; extra == 'demo'",
        'tqdm; extra == "restore"',
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: metadata)
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "vimzoo" / "doctor.py"))
    assert doctor.packages_of("demo") == ["gradio", "tqdm"]


def test_environment_is_shown_and_cannot_break_it() -> None:
    environment = {**os.environ, "VIMZOO_BACKEND": "quick", "VIMZOO_ISA": "mmx"}
    command = [sys.executable, "-m", "vimzoo.doctor"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "VIMZOO_BACKEND=quick" in done.stdout
    assert re.search(r"missing backend: VIMZOO_BACKEND: expected one of .*, got 'quick'", done.stdout)
    assert "VIMZOO_ISA=mmx is not available here" in done.stdout or "was not built" in done.stdout


IMPORTS_FAIL = """
import runpy, sys
class Fails:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            raise {error}
sys.meta_path.insert(0, Fails())
import torch, vimzoo
print(vimzoo.ops.selective_scan(*torch.rand(5, 1, 4, 4)[:2], torch.rand(4, 2), *torch.rand(2, 1, 2, 4)).shape)
try:
    vimzoo.load_checkpoint
except ImportError as error:
    print("error:", error)
sys.argv = ["doctor"]
runpy.run_module("vimzoo.doctor", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("name", "error", "finding"),
    [
        ("torchvision", "ModuleNotFoundError(name='torchvision')", "missing torchvision\n"),
        ("timm", "ModuleNotFoundError(name='timm')", "missing timm\n"),
        (
            "torchvision",
            "RuntimeError('operator torchvision::nms does not exist')",
            "missing torchvision: RuntimeError: operator torchvision::nms does not exist\n",
        ),
    ],
)
def test_answers_without_what_models_need(name: str, error: str, finding: str) -> None:
    """The table and the ops are there; models are missing with the reason, not in silence."""
    code = IMPORTS_FAIL.format(name=name, error=error)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.search(r"backend reference +\d+\.\d\d ns", done.stdout)
    assert finding + "    -> no models, layers or training; vimzoo.ops works\n" in done.stdout
    assert len(re.findall("^missing ", done.stdout, flags=re.M)) == 1
    assert (
        "torch.Size([1, 4, 4])" in done.stdout and "error: vimzoo.load_checkpoint: timm cannot" in done.stdout
    )
    assert "vimzoo has no models here, only vimzoo.ops: timm cannot be imported" in done.stderr


class Library:
    """A native library with these symbols."""

    def __init__(self, *symbols: str, best: int = 3) -> None:
        self.vimzoo_cpu_level = lambda: best
        for symbol in symbols:
            setattr(self, symbol, None)


@pytest.mark.parametrize(
    ("level", "symbols", "what", "cost"),
    [
        (
            "base",
            ["omp_get_max_threads"],
            "avx512_bf16 kernels: the compiler did not build them",
            "scans take 4.1 to 7.9",
        ),
        (
            "avx2",
            ["omp_get_max_threads"],
            "avx512_bf16 kernels: the compiler did not build them",
            "scans take 1.3 to 2.1",
        ),
        ("avx512", ["omp_get_max_threads"], "avx512_bf16 kernels: the compiler", "bfloat16 scans"),
        ("avx512_bf16", [], "a pool of threads shared with torch", "have 3 threads of their own"),
        ("avx512_bf16", ["omp_get_max_threads"], None, None),
    ],
)
def test_a_slow_native_library(
    level: str, symbols: list[str], what: str | None, cost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VIMZOO_ISA", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(native, "load", lambda: (object(), level))
    monkeypatch.setattr(native, "open_library", lambda _: Library(*symbols))
    found = shortfalls.shortfalls("cpu")
    if what is None:
        assert found == []
        return
    (item,) = found
    assert (
        item.what.startswith(what) and cost in item.cost and item.remedy.startswith("reinstall vimzoo with")
    )


@pytest.mark.usefixtures("needs_native")
def test_an_instruction_set_that_is_asked_for() -> None:
    code = "from vimzoo.ops.runtime.shortfalls import shortfalls; print([item.what for item in shortfalls('cpu')])"
    environment = {**os.environ, "VIMZOO_ISA": "base", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    best = native.LEVELS[native.open_library("base").vimzoo_cpu_level()]
    assert done.stdout == f"{[f'{best} kernels: VIMZOO_ISA=base is set'] if best != 'base' else []}\n"


def test_prices_are_measured() -> None:
    """The least and most of the result files of all machines, rounded to two digits."""
    ratios: dict[str, list[float]] = {"reference": [], "base": [], "avx2": []}
    for path in RESULTS.glob("*/cpu_isa.json"):
        rows = json.loads(path.read_text())["rows"]
        ns = {(row["instruction_set"], row["pass"]): row["ns"] for row in rows}
        for level, passes in ns:
            if not level.startswith("avx512"):
                ratios[level].append(ns[level, passes] / ns["avx512", passes])
    rows = json.loads((RESULTS / "cpu_reference.json").read_text())["rows"]
    ratios["reference"] = [row["x_reference"] for row in rows]
    rounded = {
        name: tuple(float(f"{bound:.2g}") for bound in (min(found), max(found)))
        for name, found in ratios.items()
    }
    assert rounded == shortfalls.TIMES_AS_LONG


def test_one_thread_is_not_plural(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert ", 1 thread, " in run(capsys)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert ", 2 threads, " in run(capsys)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("state", ["absent", "no compiler", "planned", "built"])
def test_extensions(
    state: str,
    runtime: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says whether a runtime can have our scan, and builds nothing."""
    library = tmp_path / "scan.so"

    def plan() -> Any:
        if state == "no compiler":
            raise UsageError(
                f"{runtime}_extension: needs a C++ compiler; expected c++, g++ or clang++ on the PATH"
            )
        return SimpleNamespace(library=library, compiler="/bin/c++", level="avx2")

    find = doctor._version
    version = "missing" if state == "absent" else "1.0"
    monkeypatch.setattr(doctor, "_version", lambda name: version if name == runtime else find(name))
    monkeypatch.setattr({"openvino": openvino, "onnxruntime": onnxruntime}[runtime], "plan", plan)
    monkeypatch.setattr(doctor, "examine_backends", list)
    if state == "built":
        library.touch()
    text = run(capsys)
    expected = {
        "absent": "the runtime is not installed",
        "no compiler": "cannot be built",
        "planned": "not built yet; the first use builds it with /bin/c++",
        "built": f"built for avx2: {library}",
    }
    assert f"extension of {runtime:<11} {expected[state]}" in text
    assert (f"missing extension of {runtime} needs a C++ compiler" in text) == (state == "no compiler")
