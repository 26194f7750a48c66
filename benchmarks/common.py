"""What every benchmark needs: rounds side by side, medians with their spread, the machine, and results as JSON."""

from __future__ import annotations

import datetime
import json
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch

import vimzoo
from vimzoo.ops.runtime import native

CORES = torch.get_num_threads()
RESULTS = Path(__file__).resolve().parent / "results"


def processor() -> str:
    """Name of the processor as the system gives it, with its family where it has one: names alone repeat."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name") or platform.processor() or platform.machine()
    return f"{name} family {facts['cpu family']}" if "cpu family" in facts else name


def folder_name(machine: dict[str, Any]) -> str:
    """Under which name results of ``machine`` are kept: its accelerator if it used one, else its processor."""
    level = (machine["instruction_set"] or "").removesuffix("_bf16")  # the same machine as before it was used
    words = machine.get("accelerator") or f"{machine['processor']} {level}"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def machine() -> dict[str, Any]:
    """Where and with what a result was obtained."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": torch.get_num_threads(),
        "instruction_set": native.load()[1],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "vimzoo": vimzoo.__version__,
        "commit": commit.stdout.strip(),
    }


def measure(
    variants: dict[str, Callable[[], Any]],
    rounds: int = 7,
    budget: float = 20.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict]:
    """Time every variant in turn, round after round, so that all share whatever else the machine does.

    Args:
        variants: what to call; each is called once before the clock starts.
        rounds: rounds at most.
        budget: seconds after which no further round starts; three rounds are always made.
        clock: in seconds; with one thread `time.process_time` leaves out what others run meanwhile.

    Returns:
        per variant ``median``, ``low`` and ``high`` quartile in seconds, and ``rounds``.
    """
    for call in variants.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in variants}
    begin = time.perf_counter()
    for made in range(rounds):
        if made >= 3 and time.perf_counter() - begin > budget:
            break
        for name, call in variants.items():
            repeats = max(1, int(0.02 / max(times[name][-1], 1e-6))) if times[name] else 1
            start = clock()
            for _ in range(repeats):
                call()
            times[name].append((clock() - start) / repeats)
    return {name: _summary(values) for name, values in times.items()}


def _summary(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high, "rounds": len(values)}


def write(
    name: str,
    rows: list[dict[str, Any]],
    about: str,
    *,
    timed: bool = True,
    extra: dict[str, Any] | None = None,
) -> Path:
    """Store ``rows`` with the machine and what they mean, and say where.

    Args:
        timed: the rows are times or memory of this machine and go to ``results/MACHINE/NAME.json``; others hold
            anywhere and go to ``results/NAME.json``.
        extra: more facts of the machine, such as its ``accelerator``.
    """
    where = machine() | (extra or {})
    folder = RESULTS / folder_name(where) if timed else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"about": about, "machine": where, "rows": rows}, indent=1) + "\n")
    print(f"-> {path.relative_to(RESULTS.parents[1])}\n", flush=True)
    return path


def kept(name: str) -> list[dict[str, Any]]:
    """The rows of an earlier result of this machine, for benchmarks that are run in pieces."""
    path = RESULTS / folder_name(machine()) / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.is_file() else []


def measure_runtimes(
    variants: dict[str, Callable[[], Any]], threads: int, rounds: int, budget: float
) -> dict[str, dict]:
    """As `measure`, for variants that have threads of their own.

    Those of one runtime go on waiting for work a while after a call and so take processors from the next one. With more
    threads than one, variants therefore do not take turns but come one after another, with a pause between.
    """
    if threads == 1:
        return measure(variants, rounds, budget)
    times = {}
    for name, call in variants.items():
        times |= measure({name: call}, rounds, budget / len(variants))
        time.sleep(0.5)
    return times


def thread_counts() -> list[int]:
    """One thread, and two where there are two cores."""
    return [1, 2] if CORES > 1 else [1]


def run_parts(parts: dict[str, Callable[[bool], None]], chosen: list[str], quick: bool) -> None:
    """Run the ``chosen`` parts of a benchmark, all if none is, each with its name and purpose above it."""
    print(json.dumps(machine(), indent=1))
    for part in chosen or parts:
        print(f"\n{part}: {(parts[part].__doc__ or '').splitlines()[0]}", flush=True)
        parts[part](quick)
        torch.set_num_threads(CORES)


def table(rows: list[dict[str, Any]], columns: list[str]) -> None:
    """Print ``columns`` of ``rows`` as an aligned table."""
    cells = [[_text(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]
    for line in [columns, *cells]:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
