"""Everything on one NVIDIA GPU, side by side in one run: ``python benchmarks/gpu.py --minutes 8``.

First every kernel is checked against the reference in float64, forward and gradients; what is wrong is not timed. Then,
with CUDA events and caches flushed between calls: the scans of our backends, those of mamba-ssm and causal-conv1d where
they are installed, the work as the papers compose it, and whole models against timm's transformers and convolutions,
inference and training steps in bfloat16, with peak memory. Writes JSON and two charts to ``benchmarks/results/DEVICE``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import common
import gpu_charts
import torch
from common import table, write
from gpu_bench import Bench, cuda_bench
from gpu_models import models
from gpu_parts import check, convolutions, scans
from gpu_shapes import IMAGES, MODELS, Layer, layers

PARTS = ("scans", "models")


def run(
    bench: Bench, device: str, parts: Iterable[str] = PARTS, shapes: list[Layer] | None = None,
    names: Iterable[str] = tuple(MODELS), sizes: Iterable[int] = tuple(IMAGES),
) -> None:  # fmt: skip
    """Check, measure and write.

    Args:
        device: its name, under which results are kept.

    Raises:
        SystemExit: if a kernel is wrong.
    """
    shapes = layers() if shapes is None else shapes
    ceilings = bench.ceilings()
    extra: dict[str, Any] = {"accelerator": device, "absent": bench.absent, "ceilings": asdict(ceilings)}
    checked = check(bench, shapes)
    table(checked, ["shape", "dtype", "kernel", "forward", "backward", "right", "failed"])
    write("gpu_check", checked, "largest difference from float64, of the largest value", extra=extra)
    wrong = sorted({row["kernel"] for row in checked if not row.get("right", True)})
    if wrong:
        raise SystemExit(f"gpu.py: not timed, for these are wrong: {', '.join(wrong)}")
    if "scans" in parts:
        end = bench.until
        bench.until = min(end, (time.monotonic() + end) / 2 if "models" in parts else end)
        rows = scans(bench, shapes, ceilings) + [
            {"op": "causal_conv1d", **row} for row in convolutions(bench, shapes)
        ]
        table(rows, ["op", "shape", "pass", "kernel", "median", "ns", "of_bandwidth", "of_issue", "failed"])
        write("gpu_scans", rows, SCANS_ABOUT, extra=extra)
        bench.until = end
    if "models" in parts:
        rows = models(bench, names, sizes)
        table(rows, ["px", "images", "pass", "mode", "model", "images_per_second", "peak_MB", "failed"])
        path = write("gpu_models", rows, MODELS_ABOUT, extra=extra)
        for chart in gpu_charts.draw(rows, path.parent, f"{device}, bfloat16"):
            print(f"-> {chart.relative_to(common.RESULTS.parents[1])}")


SCANS_ABOUT = (
    "bfloat16; seconds on the device, median and quartiles; ns: per (image, token, channel, direction). of_bandwidth: "
    "share of the time that moving each input and output once takes at the rate of a copy; of_issue: that issuing the "
    "instructions counted in sass_*.json takes; unfused: flips, crossed copies, dt product and merge around a scan"
)
MODELS_ABOUT = (
    "bfloat16, models as timm makes them; inference: forward; training: forward under autocast, backward, a step "
    "of AdamW; peak_MB: device memory at its highest, weights included"
)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and run on the current CUDA device."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=8.0, help="start nothing new after so long")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    chosen = parser.parse_args(arguments)
    run(cuda_bench(chosen.minutes), torch.cuda.get_device_name(), chosen.parts)


if __name__ == "__main__":
    main()
