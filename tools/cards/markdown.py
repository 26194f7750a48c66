"""Markdown tables of numbers and of result files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vimzoo.models.facts import Facts


def read_result(folder: Path, name: str) -> dict[str, Any]:
    """A result file as a dict of ``about``, ``machine`` and ``rows``; all empty where it has not been made."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {"about": "", "machine": {}, "rows": []}


def machine_line(machine: Mapping[str, Any]) -> str:
    """Where and when a result was obtained, in a line."""
    parts = [
        machine.get("processor", "unknown processor"),
        machine.get("instruction_set") or "no native kernels",
        f"cores {machine.get('cores', '?')}",
        *(f"{what} {machine[what]}" for what in ("torch", "timm", "vimzoo") if what in machine),
        f"commit {machine['commit']}" if machine.get("commit") else "",
        machine.get("date", ""),
    ]
    return ", ".join(part for part in parts if part)


def number(value: Any) -> str:
    """A cell: numbers to three significant digits, missing ones as "-"."""
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        if 0 < abs(value) < 1e-3:
            return f"{value:.1e}"
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return str(value)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *[[number(cell) for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def result_table(result: Mapping[str, Any]) -> str:
    """Any result file as a table: its single values, what they mean, and the machine."""
    if not result["rows"]:
        return "Not measured yet."
    singles = (row.items() for row in result["rows"])
    shown = {key: None for row in singles for key, value in row if not isinstance(value, (dict, list))}
    cells = [[row.get(key) for key in shown] for row in result["rows"]]
    titles = [key.replace("_", " ") for key in shown]
    return f"{table(titles, cells)}\n\n{_sentence(result['about'])} {machine_line(result['machine'])}."


def comparison(results: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> str:
    """One kind of result from several machines in one table.

    Args:
        results: result files by the names of their machines.
        columns: keys of the rows to show, in this order.

    Raises:
        ValueError: there is no row to show.
    """
    cells = [
        [f"`{machine}`", *(row.get(key) for key in columns)]
        for machine, result in results.items()
        for row in result["rows"]
    ]
    if not cells:
        raise ValueError(f"no rows to compare in the results of {', '.join(results)}")
    titles = ["machine", *(key.replace("_", " ") for key in columns)]
    alone = len(results) == 1
    about = _sentence(next(iter(results.values()))["about"])
    dates = ", ".join(f"{result['machine'].get('date', '')} (`{name}`)" for name, result in results.items())
    body = [row[alone:] for row in cells]
    return f"{table(titles[alone:], body)}\n\n{about} Measured {dates}."


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].removesuffix('.')}."


def millions(count: int) -> str:
    """A count in millions."""
    return f"{count / 1e6:.2f}"


def giga(count: int) -> str:
    """A count in billions."""
    return number(count / 1e9)


def errors(row: Mapping[str, Any] | None) -> str:
    """Parity of outputs, inner tensors and gradients in a cell."""
    return (
        "-"
        if row is None
        else " / ".join(number(row.get(key)) for key in ("output", "intermediate", "gradient"))
    )


def weights_line(facts: Facts, tag: str) -> str:
    """Where a model's weights are."""
    found = facts.weights(tag)
    if "hub_id" in found:
        where = f"`{found['hub_file']}` in [{found['hub_id']}](https://huggingface.co/{found['hub_id']})"
    elif "url" in found:
        where = f"[{found['url'].rsplit('/', 1)[1]}]({found['url']})"
    else:
        return "Weights: none published"
    return f"Weights: `{facts.tagged(tag)}`, {where}, {facts.license}"
