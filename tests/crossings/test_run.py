"""The script behind `make test-crossings` counts what it says; it itself installs packages and is not run here."""

import json
import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PINNED = tomllib.loads((HERE / "environments.toml").read_text())
REPORT = """<testsuites><testsuite>
<testcase classname="tests.docs" name="test_python_block[ecosystem.md:10-peft]"/>
<testcase classname="tests.docs" name="test_python_block[ecosystem.md:20-peft-accelerate]"><failure/></testcase>
<testcase classname="tests.crossings.test_x" name="test_peft_y"><properties/></testcase>
<testcase classname="tests.crossings.test_x" name="test_torchao_y"><skipped/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def script() -> dict[str, Any]:
    return runpy.run_path(str(HERE / "run.py"), run_name="crossings")


def test_skipped_and_missing_tests_are_failures(script: dict[str, Any], tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    names = ("peft", "accelerate", "torchao", "lightning")
    rows = list(script["outcomes"](report, {name: f"{name}==1.0" for name in names}))
    counts = {row["library"]: (row["passed"], row["failed"]) for row in rows}
    assert counts == {"peft": (2, 1), "accelerate": (0, 1), "torchao": (0, 1), "lightning": (0, 1)}


def test_a_row_replaces_that_of_its_library(script: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "crossings.json"
    for passed in (1, 2):
        script["record"]([{"library": "peft", "passed": passed}, {"library": "captum", "passed": 0}], path)
    script["record"]([{"library": "peft", "passed": 3}], path)
    assert [(r["library"], r["passed"]) for r in json.loads(path.read_text())["rows"]] == [
        ("captum", 0), ("peft", 3),
    ]  # fmt: skip


def test_every_library_is_pinned_and_used_in_a_document() -> None:
    texts = "".join(path.read_text() for path in (HERE.parents[1] / "docs").glob("*.md"))
    for name, requirements in ((n, r) for table in PINNED.values() for n, r in table.items()):
        assert all(re.fullmatch(r"[\w-]+(\[\w+\])?==\d[\w.]*", one) for one in requirements.split()), (
            requirements
        )
        assert re.search(rf"^(import .*\b|from ){name}\b|--engine {name}\b", texts, re.M), name
