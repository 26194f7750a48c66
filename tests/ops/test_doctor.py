"""``python -m vimzoo.doctor``: what it says on a whole installation and on one that lacks parts."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest
import torch

from vimzoo import doctor
from vimzoo.ops import cuda_backend, mamba_ssm_backend, native


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert doctor.main(arguments) == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("needs_native")
def test_whole_installation(capsys: pytest.CaptureFixture[str]) -> None:
    report: dict[str, Any] = json.loads(run(capsys, "--json"))
    assert set(report["versions"]) == {"vimzoo", "python", "torch", "timm", "numpy"}
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
    assert re.search(r"the reference runs at \d+ ns per element, about \d+x slower", text)
    assert "install a C compiler" in text
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
    monkeypatch.setattr(mamba_ssm_backend, "load_scan", lambda: (None, "mamba-ssm cannot be imported: why"))
    text = run(capsys)
    assert re.search(r"backend cuda +does not load +no NVIDIA driver", text)
    assert re.search(r"backend mamba_ssm +does not load +mamba-ssm cannot be imported: why", text)


def test_without_the_training_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in doctor.TRAINING else find(name)
    )
    text = run(capsys)
    assert "missing hydra, sklearn, matplotlib, tqdm" in text and 'pip install "vimzoo[train]"' in text


def test_environment_is_shown_and_cannot_break_it() -> None:
    environment = {**os.environ, "VIMZOO_BACKEND": "quick", "VIMZOO_ISA": "mmx"}
    command = [sys.executable, "-m", "vimzoo.doctor"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "VIMZOO_BACKEND=quick" in done.stdout and "missing backend quick" in done.stdout
    assert "VIMZOO_ISA=mmx is not available here" in done.stdout or "was not built" in done.stdout
