"""Markdown tables of numbers and of result files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
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


NOT_MEASURED = "not measured"
DISTURBED = "disturbed"


def number(value: Any) -> str:
    """A cell: numbers to three significant digits, "-" where none applies."""
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        if 0 < abs(value) < 1e-3:
            return f"{value:.1e}"
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return str(value)


def or_none(value: Any) -> Any:
    """A published or recorded figure, or "none"."""
    return "none" if value is None else value


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *[[number(cell) for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def is_measured(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Whether a column holds measurements rather than what was measured."""
    return any(isinstance(row.get(key), float) or row.get(key) == DISTURBED for row in rows)


def result_table(result: Mapping[str, Any], command: str = "", hidden: Sequence[str] = ()) -> str:
    """Any result file as a table: its single values, what they mean, the command that measures, and the machine.

    A measurement that is None was not made; a key that a row lacks does not apply to it.

    Args:
        hidden: keys that are left out.
    """
    rows = result["rows"]
    if not rows:
        return "Not measured yet."
    singles = (item for row in rows for item in row.items())
    keys = dict.fromkeys(k for k, v in singles if not isinstance(v, (dict, list)) and k not in hidden)
    missing = {key: NOT_MEASURED if is_measured(rows, key) else None for key in keys}
    cells = [[missing[key] if row.get(key, "") is None else row.get(key) for key in keys] for row in rows]
    said = f"{_sentence(result['about'])} {machine_line(result['machine'])}.{_by(command)}{_disturbed(rows)}"
    return f"{table([key.replace('_', ' ') for key in keys], cells)}\n\n{said}"


def comparison(
    results: Mapping[str, Mapping[str, Any]],
    columns: Sequence[str],
    command: str = "",
    absent: Sequence[str] = (),
) -> str:
    """One kind of result from several machines in one table; what one of them lacks is "not measured".

    Args:
        results: result files by the names of their machines.
        columns: keys of the rows to show: first what was measured, then the measurements.
        command: that measures them.
        absent: machines that have no such result.

    Raises:
        ValueError: there is no row to show.
    """
    rows = [row for result in results.values() for row in result["rows"]]
    if not rows:
        raise ValueError(f"no rows to compare in the results of {', '.join(results)}")
    what = tuple(takewhile(lambda key: not is_measured(rows, key), columns))
    missing = {key: NOT_MEASURED if is_measured(rows, key) else None for key in columns}
    every = dict.fromkeys(tuple(row.get(key) for key in what) for row in rows)
    body = []
    for machine, result in results.items():
        known = {tuple(row.get(key) for key in what) for row in result["rows"]}
        lacking = [dict(zip(what, key, strict=True)) for key in every if key not in known]
        for row in [*result["rows"], *lacking]:
            cells = [missing[key] if row.get(key) is None else row[key] for key in columns]
            body.append(cells if len(results) == 1 else [f"`{machine}`", *cells])
    titles = [*(["machine"] if len(results) > 1 else []), *(key.replace("_", " ") for key in columns)]
    about = _sentence(next(iter(results.values()))["about"])
    dates = ", ".join(f"{result['machine'].get('date', '')} (`{name}`)" for name, result in results.items())
    nowhere = f" Not measured on {', '.join(f'`{name}`' for name in absent)}." if absent else ""
    return f"{table(titles, body)}\n\n{about} Measured {dates}.{nowhere}{_by(command)}{_disturbed(rows)}"


def _by(command: str) -> str:
    return f" By `{command}`." if command else ""


def _disturbed(rows: Sequence[Mapping[str, Any]]) -> str:
    if not any(DISTURBED in row.values() for row in rows):
        return ""
    return " Disturbed: several threads were slower than one because other work was running."


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
    kinds = ("output", "intermediate", "gradient")
    return NOT_MEASURED if row is None else " / ".join(number(or_none(row.get(key))) for key in kinds)


def weights_line(facts: Facts, tag: str) -> str:
    """Where a model's weights are."""
    found = facts.weights(tag)
    if "file" in found:
        where = f"`{found['file']}` in this package"
    elif "hub_id" in found:
        where = f"`{found['hub_file']}` in [{found['hub_id']}](https://huggingface.co/{found['hub_id']})"
    elif "url" in found:
        where = f"[{found['url'].rsplit('/', 1)[1]}]({found['url']})"
    else:
        return "Weights: none published"
    licence = "licence unknown" if facts.license == "unknown" else facts.license
    return f"Weights: `{facts.tagged(tag)}`, {where}, {licence}"


def finished_card(name: str, lines: list[str], parity: Mapping[str, Any] | None, note: str) -> str:
    """A model's card: its lines, then what was measured of its parity, and the note."""
    measured = [] if parity is None else [
        f"Parity with `{parity['reference']}`, output / inner / gradient: {errors(parity)}"
    ]  # fmt: skip
    lines = [*lines, *measured, *([f"Note: {note}"] if note else [])]
    return "\n".join([f"### {name}", "", *(f"- {line}" for line in lines)])
