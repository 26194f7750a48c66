"""What this installation can do, what is missing and what that costs: ``python -m vimzoo.doctor [--json]``.

Always ends with exit status 0: a missing part is a finding, not a failure.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from . import __version__
from .ops import (
    BIDIRECTIONAL,
    backends,
    cuda_backend,
    mamba_ssm_backend,
    native,
    scan_paths,
    triton_backend,
)

LENGTH, CHANNELS, STATES, RANK = 197, 384, 16, 12  # one layer of Vim-tiny on one image of 224 x 224 pixels
ORDINARY_NS = 4.0
"""Nanoseconds per element of a native library on an ordinary core, to compare with where none was built."""
GPU_BACKENDS = ("triton", "cuda", "mamba_ssm")
"""Those that need a GPU."""
TRAINING = ("hydra", "sklearn", "matplotlib", "tqdm")
"""Modules that the extra ``train`` brings."""


@dataclass(frozen=True)
class Backend:
    """One implementation of the ops."""

    name: str
    loads: bool
    detail: str
    ns_per_element: float | None


@dataclass(frozen=True)
class Missing:
    """Something that is not there, what goes without it and how to get it."""

    what: str
    cost: str
    remedy: str


def processor() -> str:
    """The processor's own name where the system tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def ns_per_element(backend: str, rounds: int = 5) -> float:
    """Nanoseconds per token, channel and direction of Vim-tiny's scan on one core or the GPU, fastest of a few."""
    device = "cuda" if backend in GPU_BACKENDS else "cpu"
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, LENGTH, CHANNELS, generator=generator).to(device)
    x_dbl = torch.randn(1, LENGTH, 2, RANK + 2 * STATES, generator=generator).to(device)
    A = -torch.rand(2, CHANNELS, STATES, generator=generator).to(device)
    dt_weight, dt_bias = (
        torch.zeros(2, CHANNELS, RANK, device=device),
        torch.zeros(2, CHANNELS, device=device),
    )
    seconds, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        for _ in range(rounds):
            begin = time.perf_counter()
            scan_paths(x, x_dbl, A, dt_weight, dt_bias, z=x, paths=BIDIRECTIONAL, backend=backend)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begin)
    torch.set_num_threads(threads)
    return min(seconds) / (x.numel() * 2) * 1e9


def _gpu_detail(name: str) -> tuple[bool, str]:
    """Whether a GPU backend has all it needs, and what that is or what it lacks."""
    if name == "triton":
        modules, detail = triton_backend.load()
        found, detail = modules is not None, detail if modules is None else f"Triton {detail}"
    elif name == "cuda":
        compiler, reason = cuda_backend.load()
        found, detail = compiler is not None, compiler or reason
    elif os.environ.get("VIMZOO_BACKEND") == name or importlib.util.find_spec(name) is None:
        function, detail = mamba_ssm_backend.load_scan()
        found = function is not None
    else:  # never imported unless asked for
        return False, f"installed, not imported: VIMZOO_BACKEND={name} or backend={name!r} asks for it"
    if found and not torch.cuda.is_available():
        return False, f"{detail}, but no GPU"
    if found:
        detail = f"{detail}, {torch.cuda.get_device_name()}"
        detail += "" if name in backends.ORDER["cuda"] else f"; only where backend={name!r} asks for it"
    return found, detail


def examine_backends() -> list[Backend]:
    """Every known backend: whether it loads, why not, and how fast it is."""
    found = []
    for name in backends.NAMES:
        loads, detail = True, "plain PyTorch, runs everywhere"
        if name == "cpu":
            library, detail = native.load()
            loads = library is not None
            detail = f"native library, instruction set {detail}" if loads else detail
        elif name in GPU_BACKENDS:
            loads, detail = _gpu_detail(name)
        try:
            speed = ns_per_element(name) if loads else None
        except backends.BackendError as error:  # a GPU backend finds out at its first launch what it lacks
            loads, detail, speed = False, str(error), None
        found.append(Backend(name, loads, detail, speed))
    return found


def examine_missing(found: Sequence[Backend]) -> list[Missing]:
    """What is not installed or built, each with its price."""
    missing = []
    chosen = os.environ.get("VIMZOO_BACKEND") or "reference"
    if chosen not in backends.NAMES:
        cost = "every op raises BackendError"
        missing.append(
            Missing(f"backend {chosen}", cost, f"VIMZOO_BACKEND: one of {', '.join(backends.NAMES)}")
        )
    reference_ns = next(backend.ns_per_element or 0.0 for backend in found if backend.name == "reference")
    for backend in found:
        if backend.name == "cpu" and not backend.loads:
            slower = reference_ns / ORDINARY_NS
            cost = (
                f"the reference runs at {reference_ns:.0f} ns per element, about {slower:.0f}x slower than the "
                f"{ORDINARY_NS:g} ns that a native library with AVX2 is reckoned to take"
            )
            remedy = "install a C compiler (gcc or clang) and reinstall vimzoo"
            remedy = "use WSL, where the Linux library runs" if sys.platform == "win32" else remedy
            remedy = "unset VIMZOO_ISA" if "VIMZOO_ISA" in os.environ else remedy
            missing.append(Missing(f"native CPU library: {backend.detail}", cost, remedy))
    absent = [module for module in TRAINING if importlib.util.find_spec(module) is None]
    if absent:
        cost = "`python train.py` and `vimzoo-train` do not run; models and ops do"
        missing.append(Missing(", ".join(absent), cost, 'pip install "vimzoo[train]"'))
    if torch.cuda.is_available() and not any(b.name == "triton" and b.loads for b in found):
        cost = f"on {torch.cuda.get_device_name()} the ops run on the reference"
        missing.append(Missing("GPU kernels", cost, "install triton, which torch brings on Linux"))
    return missing


def examine() -> dict[str, Any]:
    """Everything that `main` prints, ready for JSON."""
    found = examine_backends()
    versions = {"vimzoo": __version__, "python": platform.python_version()}
    return {
        "versions": versions
        | {name: importlib.metadata.version(name) for name in ("torch", "timm", "numpy")},
        "system": platform.platform(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "environment": {name: value for name, value in os.environ.items() if name.startswith("VIMZOO_")},
        "backends": [asdict(backend) for backend in found],
        "missing": [asdict(item) for item in examine_missing(found)],
    }


def as_text(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = ["  ".join(f"{name} {value}" for name, value in report["versions"].items())]
    lines.append(f"{report['processor']}, {report['threads']} threads, {report['system']}")
    lines += [f"set in the environment: {name}={value}" for name, value in report["environment"].items()]
    for backend in report["backends"]:
        speed = f"{backend['ns_per_element']:.2f} ns per element" if backend["loads"] else "does not load"
        lines.append(f"backend {backend['name']:<10} {speed:<22} {backend['detail']}")
    for item in report["missing"]:
        lines.append(f"missing {item['what']}\n    -> {item['cost']}\n    {item['remedy']}")
    return "\n".join(lines if report["missing"] else [*lines, "nothing is missing"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; exit status 0 whatever it says."""
    parser = argparse.ArgumentParser(
        prog="python -m vimzoo.doctor", description="What this installation can do."
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    report = examine()
    print(json.dumps(report, indent=2) if options.json else as_text(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
