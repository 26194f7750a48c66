"""Draws speed.png, of README.md: ``python docs/figures/draw_speed.py`` from a machine's cpu_runtimes.json.

Takes the machine that was measured last, or the folder given as the only argument.
"""

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "benchmarks" / "results"
PANELS = (
    ("float32", "ms", "ms for one image, float32"),
    ("bfloat16", "ms", "ms for one image, bfloat16"),
    ("float32", "peak_mb", "MB of memory, float32"),
)
LOOKS = {"PyTorch": "-", "onnxruntime": ":", "OpenVINO": "--", "OpenVINO with our scan": "-."}
"""Line of each runtime."""


def draw_panel(axes: Axes, rows: list[dict[str, Any]], key: str, label: str) -> None:
    """One value over the resolution, one line for each model and runtime."""
    lines = list(dict.fromkeys((row["model"], row["runtime"]) for row in rows))
    models = list(dict.fromkeys(model for model, _ in lines))
    for model, runtime in lines:
        points = [
            (r["px"], r[key]) for r in rows if (r["model"], r["runtime"]) == (model, runtime) and key in r
        ]
        axes.plot(
            *zip(*sorted(points), strict=True),
            LOOKS[runtime],
            color=f"C{models.index(model)}",
            marker="o",
            label=f"{model.split('_patch')[0]}, {runtime}",
        )
    sizes = sorted({row["px"] for row in rows})
    axes.set(xscale="log", yscale="log", title=label)
    axes.set_xticks(sizes, [f"{px} px" for px in sizes])
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def main() -> None:
    files = [Path(folder) / "cpu_runtimes.json" for folder in sys.argv[1:2]] or [
        *RESULTS.glob("*/cpu_runtimes.json")
    ]
    result = max((json.loads(file.read_text()) for file in files), key=lambda r: r["machine"]["date"])
    rows = [row for row in result["rows"] if row["batch"] == row["threads"] == 1]
    pairs = list(dict.fromkeys(row["pair"] for row in rows))
    figure = Figure(figsize=(13, 7), layout="constrained")
    grid = figure.subplots(len(pairs), len(PANELS))
    for line, pair in zip(grid, pairs, strict=True):
        shown = [row for row in rows if row["pair"] == pair]
        for axes, (dtype, key, label) in zip(line, PANELS, strict=True):
            draw_panel(axes, [row for row in shown if row["dtype"] == dtype], key, label)
        line[0].legend(fontsize=8)
    where = result["machine"]
    figure.suptitle(f"{where['processor']}, {where['instruction_set']}, one thread, {where['date']}")
    figure.savefig(HERE / "speed.png", dpi=100)


if __name__ == "__main__":
    main()
