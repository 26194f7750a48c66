"""Finds what keeps scans below full speed on this machine, with the cost and the remedy of each."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass

import torch

from .. import backends
from . import native, triton_backend

TIMES_AS_LONG = {"reference": (16, 39), "base": (4.1, 7.9), "avx2": (1.3, 2.1)}
"""How many times as long a scan takes, at least and at most, as with AVX-512 kernels on one thread.

From ``cpu_reference.json`` and the machines' ``cpu_isa.json`` in ``benchmarks/results``.
"""


@dataclass(frozen=True)
class Shortfall:
    """Something that is missing or slow, what that costs, and how to get it."""

    what: str
    cost: str
    remedy: str


def chosen_backend(device: str) -> tuple[str, str]:
    """The backend that runs float32 scans on a device type, and its version or instruction set ("" if it has none)."""
    forced = backends.forced_backend()
    for backend in [backends.find(forced)] if forced else backends.order("scan_paths", device):
        loads, detail = backend.load()
        if forced or loads:
            return backend.name, detail if loads else ""
    return "reference", ""


def price(slow: str) -> str:
    """How much slower a backend or instruction set is, as a sentence."""
    if slow == native.LEVELS[-2]:  # the best instruction set adds these to the one before it
        return "bfloat16 scans do without the processor's BF16 instructions"
    low, high = TIMES_AS_LONG[slow]
    return f"scans take {low:g} to {high:g} times as long as with AVX-512 kernels on one thread"


def shortfalls(device: str) -> list[Shortfall]:
    """Why scans on a device type are slower than this machine allows; empty if they are not.

    Args:
        device: type of a device, such as ``cpu`` or ``cuda``.

    Raises:
        BackendError: ``VIMZOO_BACKEND`` names no backend.
    """
    name, _ = chosen_backend(device)
    if name == "reference" and backends.forced_backend() == name:
        return [Shortfall("native kernels: backend reference is forced", price(name), "unset VIMZOO_BACKEND")]
    if device == "cuda" and name == "reference":
        cost = "the ops run on the reference, plain PyTorch, step by step"
        return [
            Shortfall(
                f"GPU kernels: {triton_backend.load()[1]}",
                cost,
                "install triton, which torch installs on Linux",
            )
        ]
    return _cpu_shortfalls() if device == "cpu" else []


def _cpu_shortfalls() -> list[Shortfall]:
    library, detail = native.load()
    if library is None:
        return [Shortfall(f"native CPU library: {detail}", price("reference"), _remedy())]
    return [found for found in (_instruction_set(detail), _own_threads(detail)) if found]


def _remedy() -> str:
    if sys.platform == "win32":
        return "use WSL, where the Linux library runs"
    if "VIMZOO_ISA" in os.environ:
        return "unset VIMZOO_ISA"
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    first = "" if compiler else "install a C compiler (gcc or clang) and then "
    checkout = native.checkout()
    return f"{first}run pip install -e {checkout}" if checkout else f"{first}reinstall vimzoo from source"


def _instruction_set(level: str) -> Shortfall | None:
    """The processor supports a better instruction set than the one in use."""
    best = native.LEVELS[int(native.open_library("base").vimzoo_cpu_level())]  # type: ignore[union-attr]
    if level == best:
        return None
    if "VIMZOO_ISA" in os.environ:
        return Shortfall(f"{best} kernels: VIMZOO_ISA={level} is set", price(level), "unset VIMZOO_ISA")
    what = f"{best} kernels: the compiler did not build them, those for {level} run"
    return Shortfall(what, price(level), f"reinstall vimzoo with a compiler that knows {best}")


def _own_threads(level: str) -> Shortfall | None:
    """The native library was built without OpenMP, and not because there is none, as on macOS."""
    threads = torch.get_num_threads()
    if threads == 1 or sys.platform == "darwin" or hasattr(native.open_library(level), "omp_get_max_threads"):
        return None
    return Shortfall(
        "a pool of threads shared with torch: the compiler of the native library lacked GNU's OpenMP",
        f"scans, convolutions and norms have {threads} threads of their own, which compete with torch's for the cores",
        "reinstall vimzoo with gcc",
    )
