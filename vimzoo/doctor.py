"""Reports what works in this installation, what is missing and what that costs: ``python -m vimzoo.doctor [--json]``.

Always ends with exit status 0: a missing part is a finding, not a failure. Needs torch and einops alone.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import time
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vimzoo import __version__

from .commands import Parser, run_command
from .errors import UsageError
from .ops import BIDIRECTIONAL, backends, scan_paths
from .ops.runtime import onnxruntime, openvino
from .ops.runtime.shortfalls import Shortfall, shortfalls
from .ops.runtime.threads import counted

LENGTH, CHANNELS, STATES, RANK = 197, 384, 16, 12  # one layer of Vim-tiny on one image of 224 x 224 pixels
COMMANDS = {
    "train": "`vimzoo-train`, `python train.py` and `python -m vimzoo.eval` do not run",
    "restore": "`python -m vimzoo.restore` does not run",
    "export": "`python -m vimzoo.export` writes no ONNX files",
    "demo": "`python -m vimzoo.demo` does not run",
}
"""Extras of this package, and what cannot be used without the packages that they install."""
NEEDED = {
    "torchvision": "install torch and torchvision from the same index, one release of each made for the other",
    "timm": "pip install --force-reinstall timm",
}
"""Packages that models need, in the order in which they are imported, and the remedy if one fails to import."""

EXTENSIONS = {
    "onnxruntime": (
        lambda: onnxruntime.plan(),
        "exported files run by standard operators, several times as slow, and those of --format onnxruntime do not",
    ),
    "openvino": (lambda: openvino.plan(), "inlined ONNX files run, those of --format openvino do not"),
}
"""Runtimes -> how the library with our scan is built for them, and the cost if it cannot be."""


@dataclass(frozen=True)
class Finding:
    """The state of a backend: whether it loads, its version or the reason, and its speed."""

    name: str
    loads: bool
    detail: str
    ns_per_element: float | None


def processor() -> str:
    """The processor's name if the system reports it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def ns_per_element(backend: backends.Backend, rounds: int = 5) -> float:
    """Nanoseconds per token, channel and direction of Vim-tiny's scan on one core or the GPU, fastest of a few."""
    device = "cpu" if backend.serves("cpu") else "cuda"
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
            scan_paths(x, x_dbl, A, dt_weight, dt_bias, z=x, paths=BIDIRECTIONAL, backend=backend.name)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begin)
    torch.set_num_threads(threads)
    return min(seconds) / (x.numel() * 2) * 1e9


def _load(backend: backends.Backend) -> tuple[bool, str]:
    """Whether a backend is complete, and its version or what is missing."""
    loads, detail = backend.load()
    detail = backend.description.format(detail) if loads else detail
    if not loads or backend.serves("cpu"):
        return loads, detail
    if not torch.cuda.is_available():
        return False, f"{detail}, but no GPU"
    only = "" if backend.rank("cuda") is not None else f"; runs only if backend={backend.name!r} forces it"
    return True, f"{detail}, {torch.cuda.get_device_name()}{only}"


def examine_backends() -> list[Finding]:
    """Every registered backend: whether it loads, why not, and how fast it is."""
    found = []
    for backend in backends.registered():
        loads, detail = _load(backend)
        try:
            speed = ns_per_element(backend) if loads else None
        except backends.BackendError as error:  # a GPU backend may fail only at its first launch
            loads, detail, speed = False, str(error), None
        found.append(Finding(backend.name, loads, detail, speed))
    return found


def examine_missing() -> list[Shortfall]:
    """What is not installed, not built or slow, with the cost of each."""
    missing = _needed_packages()
    try:
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            missing += [new for new in shortfalls(device) if new not in missing]
    except backends.BackendError as error:
        missing.append(Shortfall(f"backend: {error}", "every op raises BackendError", "unset VIMZOO_BACKEND"))
    for extra, cost in COMMANDS.items():
        if absent := [name for name in packages_of(extra) if _version(name) == "missing"]:
            missing.append(Shortfall(", ".join(absent), cost, f"pip install 'vimzoo[{extra}]'"))
    return missing


def examine_extensions() -> tuple[dict[str, str], list[Shortfall]]:
    """Whether other runtimes can have our scan, and what is missing for those that are installed and cannot."""
    states, missing = {}, []
    for runtime, (plan, cost) in EXTENSIONS.items():
        if _version(runtime) == "missing":
            states[runtime] = "the runtime is not installed"
            continue
        try:
            planned = plan()
        except UsageError as error:
            what = str(error).removeprefix(f"{runtime}_extension: ")
            states[runtime] = "cannot be built"
            missing.append(Shortfall(f"extension of {runtime} {what}", cost, "see docs/export.md"))
            continue
        if planned.library.is_file():
            states[runtime] = f"built for {planned.level}: {planned.library}"
        else:
            states[runtime] = f"not built yet; the first use builds it with {planned.compiler}"
    return states, missing


def packages_of(extra: str) -> list[str]:
    """The packages that an extra of this package installs, by the names that pip knows, also those of extras in it."""
    found = []
    for text in _requirements():
        name, condition = re.match(r"[\w.-]+", text), re.search(r"extra == [\"'](\w+)", text)
        if name is None or condition is None or condition[1] != extra:
            continue
        if name[0] == "vimzoo":
            found += [p for inner in re.findall(r"\w+", text.split("]")[0])[1:] for p in packages_of(inner)]
        else:
            found.append(name[0])
    return list(dict.fromkeys(found))


def _requirements() -> list[str]:
    """What this package requires, as its metadata say; in a checkout that was not installed, as pyproject.toml says."""
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if not project.is_file():
        return importlib.metadata.requires("vimzoo") or []
    extras = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
    return [f'{text}; extra == "{extra}"' for extra, texts in extras.items() for text in texts]


def _needed_packages() -> list[Shortfall]:
    """Packages that models need and that are absent or cannot be imported here, each with the reason."""
    cost, missing = "no models, layers or training; vimzoo.ops works", []
    for name, remedy in NEEDED.items():
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name:  # else a package that it needs, which has an entry of its own
                missing.append(Shortfall(name, cost, f"pip install {name}"))
        except Exception as error:  # a binary made for another torch fails in its own way
            missing.append(Shortfall(f"{name}: {type(error).__name__}: {error}", cost, remedy))
            break  # timm fails for the same reason as torchvision
    return missing


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def examine() -> dict[str, Any]:
    """Everything that `main` prints, ready for JSON."""
    found = examine_backends()
    extensions, unbuilt = examine_extensions()
    versions = {"vimzoo": __version__, "python": platform.python_version()}
    return {
        "versions": versions | {name: _version(name) for name in ("torch", "torchvision", "timm", "numpy")},
        "system": platform.platform(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "environment": {name: value for name, value in os.environ.items() if name.startswith("VIMZOO_")},
        "backends": [asdict(backend) for backend in found],
        "extensions": extensions,
        "missing": [asdict(item) for item in examine_missing() + unbuilt],
    }


def as_text(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = ["  ".join(f"{name} {value}" for name, value in report["versions"].items())]
    lines.append(f"{report['processor']}, {counted(report['threads'])}, {report['system']}")
    lines += [f"set in the environment: {name}={value}" for name, value in report["environment"].items()]
    for backend in report["backends"]:
        speed = f"{backend['ns_per_element']:.2f} ns per element" if backend["loads"] else "does not load"
        lines.append(f"backend {backend['name']:<10} {speed:<22} {backend['detail']}")
    lines += [f"extension of {name:<11} {state}" for name, state in report["extensions"].items()]
    for item in report["missing"]:
        lines.append(f"missing {item['what']}\n    -> {item['cost']}\n    {item['remedy']}")
    return "\n".join(lines if report["missing"] else [*lines, "nothing is missing"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; the exit status is always 0."""
    parser = Parser(
        prog="python -m vimzoo.doctor",
        description="Report which backends and commands work in this installation.",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    report = examine()
    print(json.dumps(report, indent=2) if options.json else as_text(report))
    return 0


if __name__ == "__main__":
    run_command(main)
