"""Restoring a folder of small pictures against the model's own time, and whether memory stays flat.

python benchmarks/folders.py             1,000 pictures of 64 x 64, one and two threads
python benchmarks/folders.py MODEL ...   other models than `test_mambair`, with random weights
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import timm
import torch
from common import thread_counts, write
from skimage import data

from vimzoo.restoration import Picture, Restorer, find_jobs, restore_files, write_picture

PICTURES, SIDE, ROUNDS = 1000, 64, 3
BATCHES = (1, 2, 4, 8)
ABOUT = (
    "Photographs of 64 x 64 as PNG through `vimzoo.restoration.restore_files`, all defaults but the batch: "
    "milliseconds per picture of the model alone at its best batch, and of the whole run, reading and writing "
    "included, medians of rounds side by side; x_model: the second over the first; first mb and peak mb: resident "
    "memory of the process after a tenth of the pictures and at most"
)


def pictures(folder: Path, count: int) -> None:
    """Crops of photographs."""
    photographs = [data.astronaut(), data.coffee(), data.cat(), data.rocket()]
    rng = np.random.default_rng(0)
    for number in range(count):
        whole = photographs[number % len(photographs)]
        y, x = (int(rng.integers(0, side - SIDE)) for side in whole.shape[:2])
        write_picture(
            Picture(np.ascontiguousarray(whole[y : y + SIDE, x : x + SIDE])), folder / f"{number:05}.png"
        )


@torch.inference_mode()
def alone(model: Any, batch: int, count: int) -> float:
    """Seconds per picture of the model."""
    tiles = torch.rand(batch, model.in_chans, SIDE, SIDE)
    start = time.perf_counter()
    for _ in range(max(1, count // batch)):
        model(tiles)
    return (time.perf_counter() - start) / max(1, count // batch) / batch


def measured(name: str, threads: int, source: Path, count: int) -> dict[str, Any]:
    """One row."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    for batch in BATCHES:
        alone(model, batch, 16)
    times = {batch: min(alone(model, batch, 64) for _ in range(3)) for batch in BATCHES}
    best = min(times, key=times.__getitem__)
    restorer = Restorer(model, tile=128, batch=best)
    process, marks = psutil.Process(), list[int]()

    def noted(stream: Any, work: Any) -> Any:
        for done, answer in enumerate(stream(enumerate(work))):
            if done == count // 10:
                marks.append(process.memory_info().rss)
            yield answer

    own, whole = [], []
    for _ in range(ROUNDS):
        own.append(alone(model, best, count))
        with tempfile.TemporaryDirectory() as target:
            jobs = find_jobs(source, Path(target))
            start = time.perf_counter()
            report = restore_files(jobs, restorer, quiet=True, shared=noted)
            whole.append((time.perf_counter() - start) / count)
            assert len(report.restored) == count, report.failed[:1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    row = {
        "model": name, "pictures": count, "threads": threads, "batch": best,
        "model_ms": 1e3 * statistics.median(own), "whole_ms": 1e3 * statistics.median(whole),
        "x_model": statistics.median(b / a for a, b in zip(own, whole, strict=True)),
        "first_mb": marks[0] / 1e6, "peak_mb": peak / 1e6,
    }  # fmt: skip
    print(row, flush=True)
    return row


def main(names: list[str]) -> None:
    """Measure and store."""
    with tempfile.TemporaryDirectory() as folder:
        pictures(Path(folder), PICTURES)
        rows = [
            measured(name, threads, Path(folder), PICTURES)
            for name in names or ["test_mambair"]
            for threads in thread_counts()
        ]
    write("cpu_folders", rows, ABOUT)


if __name__ == "__main__":
    main(sys.argv[1:])
