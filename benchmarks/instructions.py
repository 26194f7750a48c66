"""Instructions that the scan executes per element, on ARM and with AVX2: ``python benchmarks/instructions.py``.

qemu runs ``native/scan_once.c`` for two lengths and logs every instruction; the difference, divided by the tokens,
channels and directions that were added, is what one element costs. It replaces a timing where no ARM processor is at
hand. Writes ``benchmarks/results/instructions.json``. Debian: qemu-user, gcc-aarch64-linux-gnu.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import table, write

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parent / "kernels"
FLAGS = [
    "-O3",
    "-std=gnu11",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-static",
    "-pthread",
]
TARGETS = {
    "ARM, NEON": ("aarch64-linux-gnu-gcc", "qemu-aarch64", ["-DVIMZOO_VL=4"]),
    "ARM, NEON with BF16": (
        "aarch64-linux-gnu-gcc",
        "qemu-aarch64",
        ["-DVIMZOO_VL=4", "-march=armv8.2-a+bf16+i8mm"],
    ),
    "x86-64, AVX2": ("gcc", "qemu-x86_64", ["-DVIMZOO_VL=8", "-mavx2", "-mfma", "-mf16c"]),
}
"""Compiler, emulator and flags."""
SHAPES = {"Vim": (16, 12), "VMamba": (1, 6), "MambaIR": (10, 4)}
"""States N and rank R of the step sizes."""
DTYPES = ("float32", "bfloat16", "float16")
CHANNELS, LENGTHS = 32, (64, 128)


def executed(emulator: str, program: Path, *words: int) -> int:
    """Instructions of a run; one line is logged for each, and a few more that a difference cancels."""
    command = [emulator, "-cpu", "max", "-singlestep", "-d", "exec,nochain", str(program), *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        count = sum(block.count(b"\n") for block in iter(lambda: process.stderr.read(1 << 20), b""))
    if process.returncode:
        sys.exit(f"{emulator} ended with {process.returncode}")
    return count


def per_element(emulator: str, program: Path, states: int, rank: int, dtype: int, backward: bool) -> float:
    """Instructions for one token of one channel in one direction."""
    counts = [
        executed(emulator, program, length, CHANNELS, states, rank, 1, dtype, int(backward))
        for length in LENGTHS
    ]
    return (counts[1] - counts[0]) / ((LENGTHS[1] - LENGTHS[0]) * CHANNELS)


def build(compiler: str, flags: list[str], folder: Path) -> Path:
    """The program for one target, linked statically."""
    program = folder / f"{compiler}-{len(list(folder.iterdir()))}"
    sources = [HERE / "native" / "scan_once.c", *sorted((KERNELS / "selective_scan").glob("scan_paths*.c"))]
    sources.append(KERNELS / "threads" / "pool.c")
    subprocess.run([compiler, *FLAGS, *flags, *map(str, sources), "-o", str(program), "-lm"], check=True)
    return program


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    missing = [tool for target in TARGETS.values() for tool in target[:2] if shutil.which(tool) is None]
    if missing or platform.machine() != "x86_64":
        sys.exit(f"error: needs Linux on x86-64 with {', '.join(missing) or 'its compiler'}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        programs = {name: build(cc, flags, Path(folder)) for name, (cc, _, flags) in TARGETS.items()}
        for model, (states, rank) in SHAPES.items():
            for number, dtype in enumerate(DTYPES):
                for backward in (False, True):
                    row: dict[str, Any] = {"shape": model, "states": states, "dtype": dtype}
                    row["pass"] = "backward" if backward else "forward"
                    for name, (_, emulator, _) in TARGETS.items():
                        row[name] = per_element(emulator, programs[name], states, rank, number, backward)
                    rows.append(row)
    table(rows, list(rows[0]))
    compilers = {
        cc: subprocess.run(
            [cc, "-dumpfullversion"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for cc, _, _ in TARGETS.values()
    }
    about = (
        "instructions of scan_paths per token, channel and direction, counted by qemu; a vector of NEON holds 4 "
        "float32, one of AVX2 8"
    )
    write("instructions", rows, about, timed=False, extra=compilers)


if __name__ == "__main__":
    main()
