"""The table of docs/ecosystem.md: which libraries were tried, and how many tests of each passed."""

from __future__ import annotations

import json
from pathlib import Path

from .markdown import table

COLUMNS = ("library", "version", "torch", "timm", "passed", "failed", "commit", "date")


def crossings_table(results: Path) -> str:
    """Runs of ``tests/crossings/run.py``, a row for each library."""
    path = results / "crossings.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    if not rows:
        return "Not run yet."
    return table(list(COLUMNS), [[row.get(name, "not recorded") for name in COLUMNS] for row in rows])
