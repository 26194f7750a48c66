"""Runs the blocks of documents and the tests that need other libraries, each group of them in a fresh environment.

python tests/crossings/run.py              every table of environments.toml (`make test-crossings`)
python tests/crossings/run.py explain      one of them

An environment borrows the packages of the Python that runs this, torch among them, and installs the pinned libraries
and what they ask for on top. A test counts for a library if its name contains the library's; one that is skipped has
failed. The outcome goes to benchmarks/results/crossings.json, from which `python -m tools.cards` makes the table of
docs/ecosystem.md.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PINNED = Path(__file__).with_name("environments.toml")
RECORDS = ROOT / "benchmarks" / "results" / "crossings.json"
ABOUT = "blocks of the documents and tests that use a library, in an environment with the library pinned; on a CPU"
TESTS = ("tests/docs/test_readme.py", "tests/crossings")


def make_environment(folder: Path, requirements: list[str]) -> Path:
    """A virtual environment in ``folder`` with some packages and those of this Python; returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text("\n".join(e for e in sys.path if e.endswith("site-packages")))
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *requirements], check=True)
    return python


def outcomes(report: Path, libraries: dict[str, str]) -> Iterator[dict[str, Any]]:
    """One row for each library, from pytest's report; what was skipped, and a library without a test, has failed."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    for name, requirement in libraries.items():
        own = [case for case in cases if name in (case.get("name") or "")]
        passed = sum(len(case) == 0 or {part.tag for part in case} <= {"properties"} for case in own)
        package, _, pin = requirement.split()[0].partition("==")
        yield {
            "library": package,
            "version": pin,
            "passed": passed,
            "failed": len(own) - passed or int(not own),
        }


def record(rows: list[dict[str, Any]], path: Path = RECORDS) -> None:
    """Store the rows, in the places of earlier ones of the same libraries."""
    stored = json.loads(path.read_text())["rows"] if path.is_file() else []
    new = {row["library"] for row in rows}
    merged = sorted(
        [*(row for row in stored if row["library"] not in new), *rows], key=lambda r: r["library"]
    )
    path.write_text(json.dumps({"about": ABOUT, "rows": merged}, indent=1) + "\n")


def run(name: str, libraries: dict[str, str]) -> list[dict[str, Any]]:
    """Make an environment, run the tests in it, and return one row for each library."""
    with tempfile.TemporaryDirectory() as folder:
        python = make_environment(Path(folder) / "environment", " ".join(libraries.values()).split())
        report = Path(folder) / "report.xml"
        chosen = " or ".join(libraries)
        subprocess.run(
            [str(python), "-m", "pytest", "-q", "-k", chosen, f"--junitxml={report}", *TESTS],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
        )  # fmt: skip
        rows = list(outcomes(report, libraries))
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    place = {
        "environment": name,
        "python": platform.python_version(),
        "torch": version("torch"),
        "timm": version("timm"),
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),
        "date": datetime.date.today().isoformat(),
    }
    return [{**row, **place} for row in rows]


def main() -> int:
    """Returns 0 if everything passed."""
    pinned = tomllib.loads(PINNED.read_text())
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("environments", nargs="*", help=f"of {', '.join(pinned)}; by default all")
    asked = parser.parse_args().environments or list(pinned)
    if unknown := set(asked) - set(pinned):
        parser.error(f"expected environments of {', '.join(pinned)}, got {', '.join(sorted(unknown))}")
    failed = 0
    for name in asked:
        print(f"== {name}", flush=True)
        rows = run(name, pinned[name])
        record(rows)
        for row in rows:
            print(
                f"{row['library']} {row['version']}: {row['passed']} passed, {row['failed']} failed",
                flush=True,
            )
            failed += row["failed"]
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
