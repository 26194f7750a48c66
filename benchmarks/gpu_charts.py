"""Charts of ``gpu.py``'s rows: speed and memory of whole models over the resolution of their images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

CHARTS = {
    "speed": ("images_per_second", "images per second"),
    "memory": ("peak_MB", "peak memory, MB per image"),
}


def series(rows: list[dict[str, Any]], value: str, way: str) -> dict[str, list[tuple[int, float]]]:
    """Per model the value over resolution in eager mode; memory is shared out among the images of a batch."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row["pass"] == way and row["mode"] == "eager" and value in row:
            share = row["images"] if value == "peak_MB" else 1
            found.setdefault(row["model"], []).append((row["px"], row[value] / share))
    return {model: sorted(points) for model, points in found.items()}


def draw(rows: list[dict[str, Any]], folder: Path, title: str) -> list[Path]:
    """``gpu_speed.png`` and ``gpu_memory.png``, each with inference and training side by side; rivals are dashed."""
    paths = []
    for name, (value, label) in CHARTS.items():
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharex=True)
        for axis, way in zip(axes, ("inference", "training"), strict=True):
            for model, points in series(rows, value, way).items():
                ours = model.startswith(("Vim", "VMamba"))
                axis.plot(*zip(*points, strict=True), "o-" if ours else "s--", label=model, markersize=4)
            axis.set(title=way, xlabel="pixels a side", ylabel=label, yscale="log")
            axis.grid(alpha=0.3)
        handles, labels = axes[0].get_legend_handles_labels()
        if handles:
            axes[1].legend(handles, labels, fontsize=8)
        figure.suptitle(title)
        figure.tight_layout()
        paths.append(folder / f"gpu_{name}.png")
        figure.savefig(paths[-1], dpi=120)
        plt.close(figure)
    return paths
