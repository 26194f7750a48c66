"""C kernels of several commits side by side: ``python benchmarks/cpu_kernels.py NAME=COMMIT... [--parts PART...]``.

The libraries of every commit are built and called interleaved in one process. Ratios are to the first. ``models``
times whole models, ``ops`` their scans on the best instruction set, ``levels`` the same on the others. Writes
``benchmarks/results/MACHINE/cpu_kernels_PART.json``.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import timm
import torch
from common import run_parts, table, write

import vimzoo  # noqa: F401  registers the models
from vimzoo.ops import scan_paths
from vimzoo.ops.paths.path import BIDIRECTIONAL, CROSS
from vimzoo.ops.runtime import native

ROOT = Path(__file__).resolve().parents[1]
SCANS = {
    "Vim-T layer, 224 px": (BIDIRECTIONAL, 384, 16, 12, (1, 197)),
    "VMamba-T stage 1": (CROSS, 192, 1, 6, (56, 56)),
    "VMamba-T stage 3": (CROSS, 768, 1, 24, (14, 14)),
    "MambaIR light, 128 px": (CROSS, 72, 10, 4, (128, 128)),
}
"""Paths, channels, states, rank and map."""
MODELS = {"vim_tiny_patch16_224": 224, "vmamba_tiny_s1l8": 224, "mambair_light_x2": 128}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Libraries = dict[str, SimpleNamespace]
RESULTS = {"models": "cpu_kernels_models", "ops": "cpu_kernels_ops", "levels": "cpu_kernels_levels"}
"""Result file of each part."""


def built(commit: str, folder: Path) -> dict[str, Path]:
    """The libraries of a commit by instruction set, built in ``folder``."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=folder, check=True)
    found = {level: next(folder.glob(f"vimzoo/kernels/_cpu_{level}.*"), None) for level in native.LEVELS}
    return {level: path for level, path in found.items() if path is not None}


def chosen(libraries: dict[str, dict[str, Path]], best: str) -> Libraries:
    """Entry points of every commit's library for the best instruction set up to ``best``."""
    allowed = native.LEVELS[: native.LEVELS.index(best) + 1]
    paths = {
        commit: [by_level[level] for level in allowed if level in by_level][-1]
        for commit, by_level in libraries.items()
    }
    return {commit: native._entry_points(ctypes.CDLL(str(path))) for commit, path in paths.items()}


def clocked(entry: Callable[[Any], None], spans: list[float], arguments: Any) -> None:
    """Calls an entry point and notes the processor time that it took."""
    start = time.thread_time()
    entry(arguments)
    spans.append(time.thread_time() - start)


def compare(call: Callable[[], Any], libraries: Libraries, seconds: float) -> dict[str, Any]:
    """Milliseconds of ``call`` in the C kernels of every library, and the ratios to the first.

    Of every call of a kernel the least of all rounds counts: other work on the machine can only add to it.
    """
    spans: list[float] = []
    clocks = {
        name: SimpleNamespace(**{key: partial(clocked, entry, spans) for key, entry in vars(library).items()})
        for name, library in libraries.items()
    }
    least: dict[str, list[float]] = {}
    load, end = native.load, time.perf_counter() + seconds
    while not least or time.perf_counter() < end:
        for name, library in clocks.items():
            native.load = partial(tuple, (library, ""))  # type: ignore[assignment]
            spans.clear()
            call()
            least[name] = [min(pair) for pair in zip(spans, least.get(name, spans), strict=True)]
    native.load = load
    times = {name: sum(found) for name, found in least.items()}
    first = next(iter(times.values()))
    return {
        **{f"{name}_ms": value * 1e3 for name, value in times.items()},
        **{f"x_{name}": value / first for name, value in list(times.items())[1:]},
    }


def scan(shape: str, dtype: torch.dtype, backward: bool) -> Callable[[], Any]:
    """A call of ``scan_paths`` on one layer's shapes, with gradients of everything if ``backward``."""
    paths, channels, states, rank, (height, width) = SCANS[shape]
    K, length = len(paths), height * width
    grid = (height, width) if height > 1 else None
    torch.manual_seed(0)
    z = torch.randn(1, length, channels).to(dtype) if height == 1 else None
    inputs: dict[str, Any] = dict(
        x=torch.randn(1, length, channels).to(dtype),
        x_dbl=torch.randn(1, length, K, rank + 2 * states).to(dtype),
        A=-torch.rand(K, channels, states),
        dt_weight=(0.1 * torch.randn(K, channels, rank)).bfloat16().float(),
        dt_bias=torch.full((K, channels), -4.0),
        D=torch.ones(K, channels),
    )
    call = partial(scan_paths, **inputs, z=z, paths=paths, grid=grid)
    if not backward:
        return call
    leaves = [leaf.requires_grad_() for leaf in inputs.values()]

    def step() -> None:
        out = call()
        torch.autograd.grad(out, leaves, torch.ones_like(out))

    return step


def op_rows(libraries: Libraries, level: str, seconds: float) -> list[dict[str, Any]]:
    rows = []
    for shape in SCANS:
        for dtype, passes in (
            ("float32", "forward"),
            ("bfloat16", "forward"),
            ("float32", "forward+backward"),
        ):
            backward = passes != "forward"
            with torch.inference_mode(not backward):
                found = compare(scan(shape, DTYPES[dtype], backward), libraries, seconds)
            rows.append({"instruction_set": level, "shape": shape, "dtype": dtype, "pass": passes, **found})
    return rows


def model_rows(libraries: Libraries, level: str, seconds: float) -> list[dict[str, Any]]:
    rows = []
    for name, px in MODELS.items():
        for dtype, value in DTYPES.items():
            model = timm.create_model(name).eval().to(value)
            image = torch.rand(1, 3, px, px, dtype=value)
            with torch.inference_mode():
                found = compare(lambda: model(image), libraries, seconds)  # noqa: B023  called at once
            rows.append({"instruction_set": level, "model": name, "px": px, "dtype": dtype, **found})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "commits", nargs="+", help="what git calls them; the first is what others are compared with"
    )
    parser.add_argument("--parts", nargs="*", choices=list(RESULTS), default=[])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    best = native.load()[1]
    with tempfile.TemporaryDirectory() as folder:
        libraries = {}
        for name, commit in (words.split("=") for words in options.commits):
            where = Path(folder, name)
            where.mkdir()
            libraries[name] = built(commit, where)
        about = (
            f"one thread, the C kernels of {', '.join(options.commits)} interleaved in one process; ms: processor time "
            f"within kernels, of every call the least of many; x: ratio to that of {next(iter(libraries))}"
        )

        def part(name: str, rows: list[dict[str, Any]]) -> None:
            table(rows, list(rows[0]))
            write(RESULTS[name], rows, about)

        def models(quick: bool) -> None:
            """Whole models."""
            part("models", model_rows(chosen(libraries, best), best, 8 if quick else 30))

        def ops(quick: bool) -> None:
            """The scans of their layers."""
            part("ops", op_rows(chosen(libraries, best), best, 0.5 if quick else 3))

        def levels(quick: bool) -> None:
            """The same scans on the instruction sets of older processors."""
            rows = []
            for level in ("avx2", "base"):
                rows += op_rows(chosen(libraries, level), level, 0.3 if quick else 2)
            part("levels", rows)

        run_parts({"models": models, "ops": ops, "levels": levels}, options.parts, options.quick)


if __name__ == "__main__":
    main()
