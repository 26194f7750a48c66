"""Compilers' counts as ``benchmarks`` recorded them, and what a test may ask of them.

A count belongs to a release of a compiler: it is compared only where that release runs. What must hold of the kernels
themselves, whoever compiles them, is asked of the newest release on record.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
Counts = dict[str, dict[str, Any]]


def benchmark(name: str) -> Any:
    """A module of ``benchmarks``."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


def on_record(file: str, version: str) -> Counts:
    """Recorded counts of a compiler's ``version`` by shape and kernel; skips where that version has none."""
    records = benchmark("sass_records")
    known, running = records.read(file), records.release(version)
    if running not in known["versions"]:
        compiler = known["compiler"]
        counted = ", ".join(known["versions"])
        pytest.skip(f"{compiler} {running} runs here, counts are on record for {compiler} {counted}")
    return records.by_kernel(known["versions"][running]["rows"])


def newest_on_record(file: str) -> Counts:
    """Recorded counts of the newest version on record, by shape and kernel."""
    records = benchmark("sass_records")
    return records.by_kernel(list(records.read(file)["versions"].values())[-1]["rows"])


def assert_as_recorded(counted: Counts, recorded: Counts, *kept: str) -> None:
    """Issue slots within 5 %, as patch releases share a record; spills and the columns ``kept`` no more."""
    for name, row in counted.items():
        assert row["slots"] == pytest.approx(recorded[name]["slots"], rel=0.05), name
        for column in ("local", *kept):
            assert row[column] <= recorded[name][column], f"{name}: {column}"


def assert_every_shape_is_recorded(file: str) -> None:
    """Each version's record has a forward and a backward scan of each shape."""
    shapes = benchmark("sass").SHAPES
    records = benchmark("sass_records")
    for version, entry in records.read(file)["versions"].items():
        found = [(row["shape"], row["kernel"] == "scan_backward") for row in entry["rows"]]
        assert found == [(shape, backward) for shape in shapes for backward in (False, True)], version
