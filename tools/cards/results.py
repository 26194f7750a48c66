"""The result files of all machines, and what the documents show of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .markdown import comparison, number, read_result


def machine_folders(folder: Path) -> list[Path]:
    """The folders of machines that were measured, the one whose models were timed last first.

    A single later measurement of something else does not make a machine's figures newer.
    """

    def latest(machine: Path) -> tuple[str, str]:
        files = [path for path in [machine / "cpu_each_model.json"] if path.is_file()]
        dates = [
            read_result(machine, file.stem)["machine"].get("date", "")
            for file in files or machine.glob("*.json")
        ]
        return max(dates, default=""), machine.name

    return sorted((path for path in folder.glob("*/") if any(path.glob("*.json"))), key=latest, reverse=True)


class Results:
    """The result files in ``folder`` and in its machines' folders."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.machines = folder, machine_folders(folder)
        self.parity = read_result(folder, "parity")
        timed = [machine for machine in self.machines if (machine / "cpu_each_model.json").is_file()]
        self.speed = read_result(timed[0] if timed else folder, "cpu_each_model")

    def by_machine(self, name: str) -> dict[str, dict[str, Any]]:
        """A result file of every machine that has it, by the machine."""
        return {m.name: read_result(m, name) for m in self.machines if (m / f"{name}.json").is_file()}

    def newest(self, name: str) -> dict[str, Any]:
        """A result file beside the machines' folders, or that of the machine that was measured last."""
        found = self.by_machine(name).values()
        anywhere = read_result(self.folder, name)
        return max(found, key=lambda result: result["machine"].get("date", ""), default=anywhere)

    def compared(self, name: str, columns: Sequence[str], threads: int | None = None) -> str:
        """A kind of result from every machine that has it, in one table.

        Args:
            name: of the result files.
            columns: keys of the rows to show.
            threads: show only rows measured with this number of threads; None shows all.
        """
        results = self.by_machine(name)
        if not results:
            return "Not measured yet."
        if threads is not None:
            results = {
                machine: {**result, "rows": [row for row in result["rows"] if row["threads"] == threads]}
                for machine, result in results.items()
            }
        return comparison(results, columns)

    def parity_of(self, name: str) -> Mapping[str, Any] | None:
        """The comparison with the recording of this very model, if there is one."""
        return next((row for row in self.parity["rows"] if row["model"] == name), None)

    def ms_of(self, name: str) -> str:
        """Times by number of threads, as "1 thread / 2 threads"."""
        return " / ".join(number(row["ms"]) for row in self.speed["rows"] if row["model"] == name) or "-"

    def threads(self) -> str:
        """The numbers of threads of `ms_of`."""
        counts = dict.fromkeys(row["threads"] for row in self.speed["rows"])
        return " / ".join(f"{count} thread{'s' * (count > 1)}" for count in counts)
