"""Every Triton kernel against the reference, forward and all gradients, in Triton's interpreter: no GPU needed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ops_helpers import scan_inputs

from vimzoo.ops import BackendError, selective_scan

HERE = Path(__file__).resolve().parent
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


def run_cases(*arguments: str) -> None:
    """`triton_cases.py` in a process that interprets."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(HERE / "triton_cases.py"),
        *arguments,
    ]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=HERE.parents[1], check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@needs_triton
@pytest.mark.parametrize(
    "cases",
    [
        "test_scan_paths",
        "test_selective_scan or test_causal_conv1d or test_add_norm",
        "not (test_scan_paths or test_selective_scan or test_causal_conv1d or test_add_norm)",
    ],
)
def test_interpreted(cases: str) -> None:
    run_cases("-m", "not slow", "-k", cases)


@needs_triton
@pytest.mark.slow
def test_interpreted_grid() -> None:
    run_cases("-m", "slow")


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="then it takes them")
def test_cpu_tensors_are_refused() -> None:
    with pytest.raises(
        BackendError, match=r"'triton' cannot run selective_scan: CPU tensors need TRITON_INTERPRET=1"
    ):
        selective_scan(**scan_inputs(), backend="triton")  # type: ignore[arg-type]
