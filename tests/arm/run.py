"""The tests of operators and models on 64-bit ARM, emulated by qemu: ``make test-arm [ARGS=...]``.

Needs Debian 12 with the packages qemu-user and gcc-aarch64-linux-gnu, and downloads Debian's Python and PyTorch's
wheel for ARM into a folder that is kept. The libraries are those of our wheel for ARM (`tools.wheels`). Emulation
says what is right, nothing of speed. ARGS go to pytest; without any the tests of `TESTS` run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TESTS = (
    *(
        f"tests/ops/test_{name}.py"
        for name in ("scan_paths", "selective_scan", "conv_and_norm", "special_values")
    ),
    *(
        f"tests/ops/test_{name}.py"
        for name in (
            "linear",
            "inference",
            "gradients",
            "derivatives",
            "quantized",
            "raw_calls",
            "reference",
            "threads",
        )
    ),
    *(f"tests/models/test_{name}.py" for name in ("vim", "vmamba", "mambair")),
)
NOT_EMULATED = ("tests/ops/test_threads.py::test_a_forked_process_answers",)
"""What stops the emulator itself: qemu 7.2 ends with an assertion of its own in a fork."""
PYTHON = "3.11"
"""Debian 12's."""
DEBIAN = (f"python{PYTHON}", "libgomp1", "libstdc++6", "zlib1g")
"""Packages of ARM; apt adds what they need."""
WHEELS = ("torch==2.8.0", "torchvision==0.23.0", "timm==1.0.31")
"""The last torch whose wheel for ARM brings no CUDA, and what belongs to it."""
TOOLS = ("pytest", "hypothesis", "einops", "packaging")
EMULATOR = "qemu-aarch64"
NEEDED = (EMULATOR, "aarch64-linux-gnu-gcc", "dpkg-deb")
STARTED = "import sys; sys.executable = {launcher!r}\n"
"""Run by every Python at its start: what a test starts as ``sys.executable`` must be emulated too."""


def run(*command: str | Path, **options: Any) -> None:
    """Run a command; a failure ends the script."""
    print("$", *command, flush=True)
    done = subprocess.run([str(word) for word in command], check=False, **options)
    if done.returncode:
        sys.exit(f"{command[0]} ended with {done.returncode}")


def fetch_system(folder: Path) -> Path:
    """Debian's Python for ARM, unpacked; apt keeps its lists and downloads in ``folder``, so root is not needed."""
    system, state = folder / "system", folder / "apt"
    if (system / "usr/bin" / f"python{PYTHON}").exists():
        return system
    for name in ("lists/partial", "archives/partial"):
        (state / name).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "",
    }
    apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in settings.items())]
    run(*apt, "update")
    run(*apt, "--yes", "--download-only", "--no-install-recommends", "install", *DEBIAN)
    for package in sorted((state / "archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, system], check=True)
    return system


def fetch_wheels(folder: Path, python: Path) -> Path:
    """torch, timm and the tools of the tests for ARM, as a folder of packages; the emulated pip picks them."""
    site, pip = folder / "site", folder / "pip"
    if site.is_dir():
        return site
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target")
    run(sys.executable, *install, pip, "pip")
    partial = folder / "site.partial"
    shutil.rmtree(partial, ignore_errors=True)
    run(
        python,
        *install,
        partial,
        "--only-binary=:all:",
        *WHEELS,
        *TOOLS,
        env=os.environ | {"PYTHONPATH": str(pip)},
    )
    return partial.rename(site)


def build(folder: Path) -> Path:
    """A copy of the checkout with the libraries of the wheel for ARM."""
    copy = folder / "checkout"
    shutil.rmtree(copy, ignore_errors=True)
    listed = ["git", "ls-files", "-z"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    run(sys.executable, "-m", "tools.wheels", "aarch64", "--folder", folder, cwd=ROOT)
    wheel = max(folder.glob("*_aarch64.whl"), key=lambda path: path.stat().st_mtime)
    with zipfile.ZipFile(wheel) as archive:
        libraries = [name for name in archive.namelist() if name.endswith(".so")]
        archive.extractall(copy, libraries)
    return copy


def launcher(folder: Path, system: Path) -> Path:
    """An executable that is the emulated Python."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec {EMULATOR} -L "{system}" "{system}/usr/bin/python{PYTHON}" "$@"\n')
    path.chmod(0o755)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, help="keeps the downloads; default: one in the temporary folder"
    )
    options, rest = parser.parse_known_args()
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        sys.exit(
            f"{', '.join(missing)} not found; on Debian: apt-get install qemu-user gcc-aarch64-linux-gnu"
        )
    folder = (options.folder or Path(tempfile.gettempdir()) / "vimzoo-arm").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    python = launcher(folder, fetch_system(folder))
    site = fetch_wheels(folder, python)
    (site / "sitecustomize.py").write_text(STARTED.format(launcher=str(python)))
    copy = build(folder)
    environment = os.environ | {"PYTHONPATH": f"{copy}:{site}", "OMP_NUM_THREADS": "1"}
    left_out = [word for name in NOT_EMULATED for word in ("--deselect", name)]
    chosen = ["-m", "not slow and not gpu", *left_out, *(rest or TESTS)]
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen, cwd=copy, env=environment)


if __name__ == "__main__":
    main()
