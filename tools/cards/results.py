"""The result files of all machines, and what the documents show of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .markdown import DISTURBED, NOT_MEASURED, comparison, number, read_result

COMMANDS = {
    "checkpoint_forms": "benchmarks/checkpoint_forms.py",
    "cpu_compiled": "benchmarks/compiled.py",
    "cpu_each_model": "benchmarks/each_model.py",
    "cpu_families": "benchmarks/families.py",
    "cpu_folders": "benchmarks/folders.py",
    "cpu_inference_faults": "benchmarks/cpu_inference.py faults",
    "cpu_inference_steps": "benchmarks/cpu_inference.py steps",
    "cpu_isa": "benchmarks/cpu.py isa",
    "cpu_kernels_levels": "benchmarks/cpu_kernels.py",
    "cpu_kernels_models": "benchmarks/cpu_kernels.py",
    "cpu_kernels_ops": "benchmarks/cpu_kernels.py",
    "cpu_linear": "benchmarks/cpu.py linear",
    "cpu_memory": "benchmarks/cpu_models.py memory",
    "cpu_models": "benchmarks/cpu_models.py models",
    "cpu_pairs_crops": "benchmarks/cpu_pairs.py crops",
    "cpu_pairs_headers": "benchmarks/cpu_pairs.py headers",
    "cpu_restoration": "benchmarks/cpu_restoration.py models",
    "cpu_restoration_core": "benchmarks/cpu_restoration.py core",
    "cpu_restoration_memory": "benchmarks/cpu_restoration.py memory",
    "cpu_restoration_photograph": "benchmarks/cpu_restoration.py photograph",
    "cpu_runtimes": "benchmarks/cpu_runtimes.py",
    "cpu_s4d": "benchmarks/s4d.py",
    "cpu_scan_paths": "benchmarks/cpu.py paths",
    "cpu_scan_states": "benchmarks/cpu.py states",
    "cpu_selective_scan": "benchmarks/cpu.py scan",
    "cpu_since": "benchmarks/since.py",
    "cpu_threads_grain": "benchmarks/cpu_threads.py grain",
    "cpu_threads_load": "benchmarks/cpu_threads.py load",
    "cpu_threads_pool": "benchmarks/cpu_threads.py pool",
    "cpu_vmamba": "benchmarks/cpu_models.py vmamba",
    "cpu_vmamba_memory": "benchmarks/cpu_models.py memory",
    "dynamic_shapes": "benchmarks/dynamic_shapes.py",
    "export_digits": "benchmarks/export.py",
    "export_runtimes": "benchmarks/export_runtimes.py measure",
    "instructions": "benchmarks/instructions.py",
    "moe": "benchmarks/moe.py",
    "parity": "benchmarks/parity.py",
    "photos_denoise": "benchmarks/photos.py denoise",
    "photos_sr_x2": "benchmarks/photos.py sr_x2",
    "quantised_restoration": "benchmarks/quantised_restoration.py",
    "quantisers": "benchmarks/quantisers.py",
    "quantized_linear": "benchmarks/quantized_linear.py",
    "reliability": "benchmarks/reliability.py",
    "routing": "benchmarks/routing.py",
    "saving": "benchmarks/saving.py",
    "scaling_models": "benchmarks/scaling.py",
    "scaling_steps": "benchmarks/scaling.py",
    "scaling_traffic": "benchmarks/scaling.py",
    "shards": "benchmarks/shards.py",
    "sparse": "benchmarks/sparse.py",
    "shipped_digits": "benchmarks/shipped_digits.py",
    "trainer": "benchmarks/trainer.py",
}
"""What measures each result file."""
TIMED = re.compile(r"ms$|_ns$|per_s|^x_|^speed_vs|share$|over_forward$")
"""Keys of rows that depend on time."""
SLOWER = 1.25
"""A measurement with several threads that takes this many times as long as with one was disturbed by other work."""


def command(name: str) -> str:
    """The command that writes a result file."""
    return f"python {COMMANDS[name]}" if name in COMMANDS else ""


def marked(result: dict[str, Any]) -> dict[str, Any]:
    """A result whose disturbed rows hold "disturbed" in place of measurements."""

    def what(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(v for k, v in row.items() if isinstance(v, str | int) and k not in ("threads", "kb"))

    single = {what(row): row for row in result["rows"] if row.get("threads") == 1}
    rows = []
    for row in result["rows"]:
        alone = single.get(what(row), row)
        slower = [
            row[key] / alone[key] if key.endswith(("ms", "_ns")) else alone[key] / row[key]
            for key in row
            if key.endswith(("ms", "_ns")) or key.startswith("images_per_s")
            if row[key] is not None
        ]
        if max(slower, default=1.0) > SLOWER:
            row = {key: DISTURBED if TIMED.search(key) else value for key, value in row.items()}
        rows.append(row)
    return {**result, "rows": rows}


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
        self.speed = marked(read_result(timed[0] if timed else folder, "cpu_each_model"))
        self.speed_machine = f"`{timed[0].name}`" if timed else ""

    def by_machine(self, name: str) -> dict[str, dict[str, Any]]:
        """A result file of every machine that has it, by the machine."""
        return {m.name: marked(read_result(m, name)) for m in self.machines if (m / f"{name}.json").is_file()}

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
        absent = [machine.name for machine in self.machines if machine.name not in results]
        return comparison(results, columns, command(name), absent)

    def of_shipped(self, *names: str) -> dict[str, dict[str, Any]]:
        """Result files that hold on every machine, by name, of weights that are part of the package."""
        return {name: read_result(self.folder, name) for name in names}

    def parity_of(self, name: str) -> Mapping[str, Any] | None:
        """The comparison with the recording of this very model, if there is one."""
        return next((row for row in self.parity["rows"] if row["model"] == name), None)

    def ms_of(self, name: str) -> str:
        """Times by number of threads, as "1 thread / 2 threads"."""
        found = [number(row["ms"]) for row in self.speed["rows"] if row["model"] == name]
        return " / ".join(found) or NOT_MEASURED

    def threads(self) -> str:
        """The numbers of threads of `ms_of`."""
        counts = dict.fromkeys(row["threads"] for row in self.speed["rows"])
        return " / ".join(f"{count} thread{'s' * (count > 1)}" for count in counts)
