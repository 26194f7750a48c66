"""README.md's table of speed: our models beside transformers of their size in the runtimes of ``cpu_runtimes.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .markdown import NOT_MEASURED, machine_line, table
from .results import Results, command

NAME = "cpu_runtimes"
INSIDE = "OpenVINO with our scan"
"""Our models in OpenVINO, where they were measured."""


def readme_table(results: Results) -> str:
    """One row for each model, resolution and dtype, one image and one thread, with columns for each machine.

    A cell holds the peer's time in a runtime divided by our time in PyTorch, or in OpenVINO in the column for both in
    OpenVINO; "-" where the runtime has not that dtype.
    """
    found = {name: result for name, result in results.by_machine(NAME).items() if _rows(result)}
    if not found:
        return "Not measured yet."
    header, peers, called = ["model", "px", "dtype"], {}, _told_apart([r["machine"] for r in found.values()])
    cells: dict[tuple[str, int, str], list[float | None]] = {}
    for result, machine in zip(found.values(), called, strict=True):
        rows = _rows(result)
        inside = any(row["runtime"] == INSIDE for row in rows)
        runtimes = [name for name in dict.fromkeys(row["runtime"] for row in rows) if name != INSIDE]
        columns = [*runtimes, *["OpenVINO, ours in it too"] * inside]
        header += [f"x {column}" + (f", {machine}" if machine else "") for column in columns]
        times = {(r["pair"], r["px"], r["dtype"], r["model"], r["runtime"]): r["ms"] for r in rows}
        for pair, px, dtype in dict.fromkeys((row["pair"], row["px"], row["dtype"]) for row in rows):
            ours, peer = pair.split(", ")
            best, beside = times[pair, px, dtype, ours, "PyTorch"], times.get((pair, px, dtype, ours, INSIDE))
            theirs = {runtime: times.get((pair, px, dtype, peer, runtime)) for runtime in runtimes}
            ratios = [ms and ms / best for ms in theirs.values()]
            both = theirs.get("OpenVINO")
            ratios += [both / beside if both and beside else None] * inside
            known = cells.setdefault((ours, px, dtype), [])
            known += [None] * (len(header) - 3 - len(columns) - len(known)) + ratios
            peers[ours] = peer
    body = [
        [f"`{ours}`", px, dtype, *known, *[None] * (len(header) - 3 - len(known))]
        for (ours, px, dtype), known in cells.items()
    ]
    beside = ", ".join(f"`{ours}` beside `{peer}`" for ours, peer in peers.items())
    said = (
        f"{beside}. x: the peer's time in that runtime divided by our model's in PyTorch (eager mode), in the columns "
        "with ours in it too by our model's in OpenVINO with our scan; above 1 ours is faster."
    )
    machines = " ".join(f"{_said(result['machine'])}." for result in found.values())
    return f"{table(header, body)}\n\n{said} {machines} By `{command(NAME)}`."


def _told_apart(machines: list[Mapping[str, Any]]) -> list[str]:
    """What tells machines apart: nothing, their instruction sets, or the end of the processors' names besides."""
    levels = [machine.get("instruction_set", "") for machine in machines]
    if len(set(levels)) == len(levels):
        return levels if len(levels) > 1 else [""]
    names = [" ".join(machine["processor"].split()[-2:]) for machine in machines]
    return [f"{name}, {level}" for name, level in zip(names, levels, strict=True)]


def _rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [row for row in result["rows"] if row["batch"] == row["threads"] == 1]


def _said(machine: Mapping[str, Any]) -> str:
    onnxruntime, openvino = machine.get("onnxruntime", NOT_MEASURED), machine.get("openvino", NOT_MEASURED)
    return f"{machine_line(machine)}, onnxruntime {onnxruntime}, OpenVINO {openvino.partition('-')[0]}"
