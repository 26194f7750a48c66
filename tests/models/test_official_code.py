"""The authors' own unmodified files on our names; nothing of them is kept here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "official_code"


@pytest.mark.parametrize(
    ("variable", "script"), [("VIM_CLONE", "run_vim.py"), ("MAMBAIR_CLONE", "run_mambair.py")]
)
def test_their_models_and_training_loops_run(variable: str, script: str) -> None:
    clone = os.environ.get(variable)
    if clone is None:
        pytest.skip(f"{variable} does not name a checkout of the authors' repository")
    command = [sys.executable, "-W", "ignore", str(HERE / script), clone]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "equal", done.stderr
