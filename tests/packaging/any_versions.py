"""`make train` and `make test` in a fresh environment with versions of your choice.

python tests/packaging/any_versions.py --torch 2.8 --python python3.12
python tests/packaging/any_versions.py --newest            the newest of everything (`make test-newest`)

Clones the checkout as it is committed into a temporary folder and lets make install the package there, with torch held
by a constraint; downloads several gigabytes. Further arguments go to pytest. A run of the whole suite is recorded in
benchmarks/results/versions.json, from which `python -m tools.cards` makes the table of docs/install.md. Needs nothing
but Python.
"""

import argparse
import contextlib
import datetime
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "benchmarks" / "results" / "versions.json"
ABOUT = (
    "a clean clone, installed and run by `make train` and `make test` with torch held at a version and pip free to "
    "choose the rest; on a CPU"
)
SHOWN = ("torchvision", "timm", "triton", "numpy", "hydra-core", "pillow")


def constraints(torch: str | None) -> str:
    """A constraints file's text: torch's version, to which each torchvision is bound, or nothing."""
    if torch is None:
        return ""
    return f"torch=={torch if torch.count('.') > 1 else torch + '.*'}\n"


def direct_requirements(project: dict[str, Any]) -> list[str]:
    """What the extra `dev` asks for by name, without torch, which torchvision is bound to."""
    extras, found = project["optional-dependencies"], list(project["dependencies"])
    waiting, seen = ["dev"], set()
    while waiting:
        extra = waiting.pop()
        if extra not in seen:
            seen.add(extra)
            for text in extras[extra]:
                own = re.fullmatch(r"vimzoo\[(.*)\]", text)
                waiting += own[1].split(",") if own else []
                found += [] if own else [text]
    return sorted(text for text in set(found) if not text.startswith("torch>"))


def outcomes(report: Path) -> dict[str, Any]:
    """Numbers of tests passed, skipped and failed in pytest's XML report, and the names of those that failed."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    names = sorted(
        {f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}" for case in failed}
    )
    return {
        "passed": len(cases) - skipped - len(failed),
        "skipped": skipped,
        "failed": len(failed),
        "failures": names,
    }


def record(row: dict[str, Any], path: Path = RECORDS) -> None:
    """Store ``row`` in the place of an earlier one of the same Python and torch."""
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []

    def key(row: dict[str, Any]) -> list[list[int]]:
        return [[int(n) for n in re.findall(r"\d+", row[name])][:2] for name in ("torch", "python")]

    rows = sorted([*(other for other in rows if key(other) != key(row)), row], key=key)
    path.write_text(json.dumps({"about": ABOUT, "rows": rows}, indent=1) + "\n")


class Clone:
    """A clone of the checkout with an environment of its own, both in ``folder``."""

    def __init__(self, folder: Path, python: str, torch: str | None, pre: bool) -> None:
        self.folder, self.python = folder / "vimzoo", python
        get = (
            ["-C", str(self.folder), "pull"]
            if self.folder.exists()
            else ["clone", str(ROOT), str(self.folder)]
        )
        subprocess.run(["git", *get, "--quiet"], check=True)
        held = folder / "constraints.txt"
        held.write_text(constraints(torch))
        self.environment = {
            **{
                name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")
            },
            "PIP_CONSTRAINT": str(held),
            **({"PIP_PRE": "1"} if pre else {}),
        }

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run ``command`` in the clone."""
        print("$", shlex.join(command), flush=True)
        return subprocess.run(command, cwd=self.folder, env=self.environment, text=True, **options)

    def make(self, target: str, arguments: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
        """``make target ARGS=arguments``."""
        return self.run(
            "make", "--no-print-directory", target, f"PYTHON={self.python}", f"ARGS={arguments}", **options
        )

    def pip(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the environment's pip."""
        return self.run(".venv/bin/python", "-m", "pip", "--disable-pip-version-check", *words, **options)

    def update(self) -> None:
        """Bring each package that we name to its newest release, also where another package would hold it back."""
        project = tomllib.loads((self.folder / "pyproject.toml").read_text())["project"]
        self.pip("install", "--quiet", "--upgrade", "--no-deps", *direct_requirements(project), check=True)
        self.pip("check", check=False)  # says which package asks for an older one

    def versions(self) -> dict[str, str]:
        """Installed packages and their versions, Python's among them."""
        listed = json.loads(self.pip("list", "--format=json", stdout=subprocess.PIPE, check=True).stdout)
        code = "import platform, vimzoo.ops.runtime.nvrtc as n; print(platform.python_version(), n.load()[1])"
        python, nvrtc = self.run(
            ".venv/bin/python", "-c", code, stdout=subprocess.PIPE, check=True
        ).stdout.split(maxsplit=1)
        return {
            "python": python,
            "nvrtc": nvrtc.strip(),
            **{item["name"]: item["version"] for item in listed},
        }


def main() -> int:
    """Returns 0 if `make train` and `make test` succeeded."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--torch", help="its version, such as 2.8 or 2.14.1")
    chosen.add_argument(
        "--newest", action="store_true", help="the newest release of every package that we name"
    )
    parser.add_argument("--pre", action="store_true", help="pre-releases too")
    parser.add_argument(
        "--python", default=sys.executable, help="command of the Python to use; default: this one"
    )
    parser.add_argument(
        "--folder", type=Path, help="of clone and environment, kept and used again; default: temporary"
    )
    options, words = parser.parse_known_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        clone = Clone(folder.resolve(), options.python, options.torch, options.pre)
        clone.make(".venv", check=True)
        if options.newest:
            clone.update()
        versions = clone.versions()
        width = max(map(len, versions))
        print("\n".join(f"{name:{width}}  {version}" for name, version in versions.items()), flush=True)
        begin = time.monotonic()
        trained = clone.make("train", stdout=subprocess.PIPE)
        last = trained.stdout.strip().splitlines()[-1:] if trained.returncode == 0 else ["failed"]
        print(*last, sep="\n", flush=True)
        report = folder.resolve() / "report.xml"
        status = clone.make("test", shlex.join([f"--junitxml={report}", *words])).returncode
        found = outcomes(report)
        commit = clone.run("git", "rev-parse", "--short", "HEAD", stdout=subprocess.PIPE, check=True).stdout
        row = {
            **{name: versions.get(name) for name in ("python", "torch", "nvrtc", *SHOWN)},
            **found,
            "make_train": last[0] if last else "",
            "minutes": round((time.monotonic() - begin) / 60, 1),
            "date": datetime.date.today().isoformat(),
            "commit": commit.strip(),
        }
        print(json.dumps(row, indent=1))
        if not any(not word.startswith(("-n", "-p")) for word in words) and not options.pre:
            record(row)
    return int(bool(status or trained.returncode))


if __name__ == "__main__":
    sys.exit(main())
