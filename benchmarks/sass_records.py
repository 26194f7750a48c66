"""Counts of machine code by the version of the compiler that made it, in ``benchmarks/results/sass_*.json``.

Every release of a compiler makes other code of the same kernel, so a count means nothing without the version. The
scripts `sass.py` and `sass_cuda.py` replace the entry of the version that runs and leave the others as they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
Entry = dict[str, Any]


def release(version: str) -> str:
    """Major and minor number of ``version``: patch releases share an entry."""
    return ".".join(version.split(".")[:2])


def read(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """``about``, ``compiler`` and ``versions`` of the file ``name``, oldest version first; empty without a file."""
    path = folder / f"{name}.json"
    empty: dict[str, Any] = {"about": "", "compiler": "", "versions": {}}
    return json.loads(path.read_text()) if path.is_file() else empty


def by_kernel(rows: list[Entry]) -> dict[str, Entry]:
    """Rows by ``"shape: kernel"``."""
    return {f"{row['shape']}: {row['kernel']}": row for row in rows}


def record(
    name: str,
    compiler: str,
    version: str,
    entry: Entry,
    about: str,
    folder: Path = RESULTS,
) -> Path:
    """Store ``entry``, of ``machine`` and ``rows``, as that of ``version`` in the file ``name``, and say where."""
    versions = {**read(name, folder)["versions"], release(version): entry}
    ordered = dict(sorted(versions.items(), key=lambda item: [int(part) for part in item[0].split(".")]))
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"about": about, "compiler": compiler, "versions": ordered}, indent=1) + "\n")
    print(f"{compiler} {release(version)} -> {path.relative_to(folder.parents[1])}\n", flush=True)
    return path
