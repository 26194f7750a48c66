"""Core tests with the oldest torch and timm that pyproject.toml allows: ``python tests/packaging/oldest_versions.py``.

Makes a virtual environment in a temporary folder, or in the folder given, where it is kept and used again; downloads
several gigabytes. The native libraries that lie in the checkout are used as they are, whatever torch they were built
beside. Further arguments go to pytest.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("numpy<2.4", "pytest", "hypothesis")
TESTS = ("tests/ops", "tests/models", "tests/parity")


def requirements() -> list[str]:
    """What fixes each lower bound of the package's own dependencies, and what some tests need besides."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [re.fullmatch(r"(\w+)>=([\d.]+)", text) for text in project["dependencies"]]
    fixed = [f"{match[1]}=={match[2]}" for match in found if match]
    return [*fixed, *project["optional-dependencies"]["restore"], *TOOLS]


def main() -> int:
    """Returns pytest's exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="of the environment; default: a temporary one")
    options, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        python = str(folder / "bin" / "python")
        if not Path(python).exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements()], check=True)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        chosen = [*TESTS, "-m", "not slow and not gpu", *arguments]
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
