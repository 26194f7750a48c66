"""Restoring a folder of small pictures against the model's own time, and whether memory stays flat.

python benchmarks/folders.py                  all rows
python benchmarks/folders.py MODEL THREADS    one of them; the others stay as they were measured
"""

from __future__ import annotations

import json
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
from common import RESULTS, folder_name, machine, thread_counts, write
from skimage import data

from vimzoo.restoration import Picture, Restorer, find_jobs, restore_files, write_picture

SIDE = 64
BATCHES = (1, 2, 4, 8)
MODELS = {"test_mambair": (1000, 3), "mambair_mini_x2": (1000, 3), "mambair_light_x2": (300, 3)}
"""Pictures, and rounds."""
SAMPLE = 48  # pictures of the model alone, before and after each round
ABOUT = (
    "photographs of 64 x 64, PNG in and out, through `vimzoo.restoration.restore_files`, random weights: milliseconds "
    "per picture of the model alone at its best batch, and of the whole run with reading and writing; x_model: their "
    "ratio, the median of the rounds; quarter mb and peak mb: memory of the process after a quarter of the pictures "
    "and at most from there on"
)


def pictures(folder: Path, count: int) -> None:
    """Crops of photographs."""
    photographs = [data.astronaut(), data.coffee(), data.cat(), data.rocket()]
    rng = np.random.default_rng(0)
    for number in range(count):
        whole = photographs[number % len(photographs)]
        y, x = (int(rng.integers(0, side - SIDE)) for side in whole.shape[:2])
        crop = np.ascontiguousarray(whole[y : y + SIDE, x : x + SIDE])
        write_picture(Picture(crop), folder / f"{number:05}.png")


@torch.inference_mode()
def alone(model: Any, batch: int, count: int) -> float:
    """Seconds per picture of the model."""
    tiles = torch.rand(batch, model.in_chans, SIDE, SIDE)
    start = time.perf_counter()
    for _ in range(count // batch):
        model(tiles)
    return (time.perf_counter() - start) / (count // batch * batch)


def measured(name: str, threads: int, source: Path) -> dict[str, Any]:
    """One row."""
    count, rounds = MODELS[name]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    for batch in BATCHES:
        alone(model, batch, batch)
    times = {batch: min(alone(model, batch, 8) for _ in range(2)) for batch in BATCHES}
    best = min(times, key=times.__getitem__)
    restorer, process = Restorer(model, tile=128, batch=best), psutil.Process()
    sizes: list[int] = []

    def noted(stream: Any, work: Any) -> Any:
        for done, answer in enumerate(stream(enumerate(work))):
            if done >= count // 4:
                sizes.append(process.memory_info().rss)
            yield answer

    own, whole = [], []
    for _ in range(rounds):
        before = alone(model, best, SAMPLE)
        with tempfile.TemporaryDirectory() as target:
            jobs = find_jobs(source, Path(target))[:count]
            start = time.perf_counter()
            report = restore_files(jobs, restorer, quiet=True, shared=noted)
            whole.append((time.perf_counter() - start) / count)
            assert len(report.restored) == count, report.failed[:1]
        own.append((before + alone(model, best, SAMPLE)) / 2)
    row = {
        "model": name, "pictures": count, "threads": threads, "batch": best,
        "model_ms": 1e3 * statistics.median(own), "whole_ms": 1e3 * statistics.median(whole),
        "x_model": statistics.median(b / a for a, b in zip(own, whole, strict=True)),
        "quarter_mb": sizes[0] / 1e6, "peak_mb": max(sizes) / 1e6,
    }  # fmt: skip
    print(row, flush=True)
    return row


def main(words: list[str]) -> None:
    """Measure and store."""
    path = RESULTS / folder_name(machine()) / "cpu_folders.json"
    rows = json.loads(path.read_text())["rows"] if words and path.is_file() else []
    asked = [(words[0], int(words[1]))] if words else [(name, n) for name in MODELS for n in thread_counts()]
    with tempfile.TemporaryDirectory() as folder:
        pictures(Path(folder), max(count for count, _ in MODELS.values()))
        for name, threads in asked:
            rows = [row for row in rows if (row["model"], row["threads"]) != (name, threads)]
            rows.append(measured(name, threads, Path(folder)))
    write(
        "cpu_folders", sorted(rows, key=lambda row: (list(MODELS).index(row["model"]), row["threads"])), ABOUT
    )


if __name__ == "__main__":
    main(sys.argv[1:])
