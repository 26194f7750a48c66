"""state-spaces/mamba's own unmodified test of its selective scan, aimed at ours. Nothing of it is kept here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CLONE = os.environ.get("MAMBA_CLONE")

pytestmark = pytest.mark.skipif(
    CLONE is None, reason="MAMBA_CLONE does not name a checkout of github.com/state-spaces/mamba"
)


def run_upstream(scale: str) -> dict[str, int]:
    """Outcomes of upstream's parametrised test in a process of its own, by name."""
    pytest.importorskip("einops", reason="upstream's oracle needs einops")
    target = f"{CLONE}/tests/ops/test_selective_scan.py::test_selective_scan"
    environment = {**os.environ, "VIMZOO_SHIM_SCALE": scale}
    paths = [str(HERE), str(HERE.parents[1]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--tb=no",
        "-p",
        "no:cacheprovider",
        "-p",
        "upstream_shim",
        target,
    ]
    done = subprocess.run(command, env=environment, cwd=HERE, capture_output=True, text=True, check=False)
    summary = done.stdout.strip().splitlines()[-1]
    return {name: int(count) for count, name in re.findall(r"(\d+) (passed|failed|skipped|error)", summary)}


def test_upstream_tests_pass() -> None:
    assert run_upstream("1") == {"passed": 12}


@pytest.mark.slow
def test_upstream_tests_can_fail() -> None:
    """An output that is 0.2 % off must be noticed, or the test above says nothing."""
    assert run_upstream("1.002") == {"failed": 12}
