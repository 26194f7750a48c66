"""The tables of docs/install.md: what was run with which versions, and what each compiler makes of the kernels."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .markdown import table

COUNTED = {
    "Vim-T forward": "Vim-T 224, 64 images: scan_forward",
    "backward": "Vim-T 224, 64 images: scan_backward",
    "VMamba-T forward": "VMamba-T stage 1, 128 images: scan_forward",
    "VMamba-T backward": "VMamba-T stage 1, 128 images: scan_backward",
}
"""Columns of the compilers' table, by the shape and kernel that is counted."""


def versions_table(results: Path) -> str:
    """Runs of ``tests/packaging/any_versions.py``: versions, and tests passed, skipped and failed."""
    path = results / "versions.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    if not rows:
        return "Not run yet."
    titles = ["Python", "torch", "torchvision", "timm", "Triton", "NVRTC", "Hydra", "numpy"]
    names = ["python", "torch", "torchvision", "timm", "triton", "nvrtc", "hydra-core", "numpy"]
    counts = ["passed", "skipped", "failed"]
    header = [*titles, *counts, "`make train`", "commit"]
    body = [
        [*(row.get(n) for n in names), *(row[n] for n in counts), row["make_train"], row["commit"]]
        for row in rows
    ]
    return table(header, body)


def compilers_table(results: Path) -> str:
    """Issue slots and spills of the scans, by the releases of Triton and NVRTC that compile them."""
    body = []
    for file in ("sass_triton", "sass_cuda"):
        path = results / f"{file}.json"
        recorded = json.loads(path.read_text()) if path.is_file() else {"versions": {}}
        for version, entry in recorded["versions"].items():
            rows = {f"{row['shape']}: {row['kernel']}": row for row in entry["rows"]}
            torch = entry["machine"]["torch"].partition("+")[0]
            cells = [_slots(rows[name]) for name in COUNTED.values()]
            body.append([f"{recorded['compiler']} {version}", torch, *cells])
    return table(["compiler", "as torch brings it", *COUNTED], body) if body else "Not counted yet."


def slots_table(results: Path) -> str:
    """Issue slots of the scans by the newest recorded compilers, beside mamba_ssm's where that has such a scan."""
    columns, theirs = {}, {}
    files = ("sass_cuda", "sass_triton")
    if not all((results / f"{file}.json").is_file() for file in files):
        return "Not counted yet."
    for file in files:
        recorded = json.loads((results / f"{file}.json").read_text())
        version, entry = list(recorded["versions"].items())[-1]
        rows = {}
        for row in entry["rows"]:
            direction = "backward" if row["kernel"] == "scan_backward" else "forward"
            rows[row["shape"], direction] = _slots(row)
        columns[f"{recorded['compiler']} {version}"] = rows
        many, back, one = re.findall(
            r"(\d+) forward, (\d+) backward \(N 16\), (\d+) \(N 1\)", recorded["about"]
        )[0]
        theirs = {"Vim-T": {"forward": many, "backward": back}, "VMamba-T": {"forward": one}}
    body = [
        [
            shape,
            direction,
            *(rows[shape, direction] for rows in columns.values()),
            other.get(direction, "not counted"),
        ]
        for shape, direction in next(iter(columns.values()))
        for other in [theirs.get(shape.partition(" ")[0], {})]
    ]
    return table(["shape", "pass", *columns, "mamba_ssm"], body)


def _slots(row: Mapping[str, Any]) -> str:
    spills = f", {row['local']} spilled" if row["local"] else ""
    return f"{row['slots']:.0f}{spills}"
