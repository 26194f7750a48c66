"""The script that tests the package with any versions, and the Makefile's word on Pythons that cannot work."""

import json
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tools.cards import versions as version_cards

ROOT = Path(__file__).resolve().parents[2]
REPORT = """<testsuites><testsuite>
<testcase classname="tests.ops.test_a" name="one"/>
<testcase classname="tests.ops.test_a" name="two[x]"><failure/></testcase>
<testcase classname="tests.ops.test_b" name="three"><skipped/></testcase>
<testcase classname="tests.ops.test_b" name="four"/>
<testcase classname="" name="tests.ops.test_c"><error/></testcase>
</testsuite></testsuites>"""


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """What any_versions.py defines."""
    return runpy.run_path(str(ROOT / "tests" / "packaging" / "any_versions.py"))


def test_torch_is_held(script: dict[str, Any]) -> None:
    """Torchvision follows, for each release of it asks for one release of torch."""
    assert script["constraints"]("2.8") == "torch==2.8.*\n"
    assert script["constraints"]("2.14.1") == "torch==2.14.1\n"
    assert script["constraints"](None) == ""


def test_the_newest_of_every_package_that_we_name(script: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = script["direct_requirements"](project)
    names = {text.split(">")[0].split("<")[0] for text in found}
    assert {"timm", "numpy", "pillow", "hydra-core", "gradio", "onnx", "ruff"} <= names
    assert (
        "torch" not in names and len(found) == len(set(found)) and not any("vimzoo" in text for text in found)
    )


def test_outcomes_are_counted(script: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    assert script["outcomes"](tmp_path / "report.xml") == {
        "passed": 2,
        "skipped": 1,
        "failed": 2,
        "failures": [".py::tests.ops.test_c", "tests/ops/test_a.py::two[x]"],
    }


def test_a_pair_of_versions_has_one_row(script: dict[str, Any], tmp_path: Path) -> None:
    """Sorted by torch, then Python; the table shows the numbers."""
    common = {"skipped": 7, "failed": 0, "make_train": "test accuracy 99.7 %", "commit": "abc"}
    pairs = [
        ("2.11.0", "3.12.1", 1),
        ("2.8.0+cu128", "3.12.1", 2),
        ("2.11.0", "3.11.7", 3),
        ("2.11.1", "3.12.4", 4),
    ]
    for torch, python, passed in pairs:
        script["record"](
            {"torch": torch, "python": python, "passed": passed, **common}, tmp_path / "versions.json"
        )
    assert [row["passed"] for row in json.loads((tmp_path / "versions.json").read_text())["rows"]] == [
        2,
        3,
        4,
    ]
    last = version_cards.versions_table(tmp_path).splitlines()[-1]
    assert last == "| 3.12.4 | 2.11.1 | - | - | - | - | - | - | 4 | 7 | 0 | test accuracy 99.7 % | abc |"


def test_a_spill_shows_in_the_table_of_compilers(tmp_path: Path) -> None:
    rows = [
        {"shape": shape, "kernel": kernel, "slots": 784.6, "local": 79 if kernel == "scan_backward" else 0}
        for shape, kernel in (name.split(": ") for name in version_cards.COUNTED.values())
    ]
    entry = {"machine": {"torch": "2.14.1+cu130"}, "rows": rows}
    (tmp_path / "sass_cuda.json").write_text(json.dumps({"compiler": "NVRTC", "versions": {"13.0": entry}}))
    last = version_cards.compilers_table(tmp_path).splitlines()[-1]
    assert last == "| NVRTC 13.0 | 2.14.1 | 785 | 785, 79 spilled | 785 | 785, 79 spilled |"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("version", "said"),
    [
        ((3, 10), "vimzoo needs Python 3.11 or newer, {} is 3.10; try make PYTHON=python3.12"),
        (
            (3, 14),
            "Hydra 1.3, which the trainer needs, does not start on Python 3.14; try make PYTHON=python3.13",
        ),
    ],
)
def test_make_refuses_before_it_installs(version: tuple[int, int], said: str, tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -c "import sys; sys.version_info = {version}; exec(sys.argv[1])" "$2"\n'
    )
    python.chmod(0o755)
    done = subprocess.run(["make", ".venv", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and done.stderr.splitlines()[0] == said.format(python)
    assert not (tmp_path / ".venv").exists()
