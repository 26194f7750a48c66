"""What the model of the digits is as a file: accuracy, size and speed in ONNX, with float32 and with 8-bit weights.

``python benchmarks/export.py`` trains as ``python train.py`` does, exports the run as ``python -m vimzoo.export RUN
--int8`` does, has PyTorch and onnxruntime name the same test images, and writes
``benchmarks/results/MACHINE/export_digits.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from common import CORES, measure, table, thread_counts, write
from torch import Tensor, nn

from vimzoo.data import eval_loader
from vimzoo.engine import launch
from vimzoo.engine.build import build_data
from vimzoo.engine.configuration.words import composed_settings
from vimzoo.engine.finished import best_model, run_settings
from vimzoo.exporting import export, load

Run = Callable[[Tensor], Tensor]
BATCH = 64


def accuracy(runs: dict[str, Run], images: Tensor, labels: Tensor) -> dict[str, dict[str, Any]]:
    """How each of ``runs`` does, and how far it is from the first."""
    logits = {name: torch.cat([run(part) for part in images.split(BATCH)]) for name, run in runs.items()}
    first = next(iter(logits.values()))
    return {
        name: {
            "images": len(labels),
            "top1": 100 * (found.argmax(1) == labels).double().mean().item(),
            "other_answers": int((found.argmax(1) != first.argmax(1)).sum()),
            "difference": ((found - first).abs().max() / first.std()).item(),
        }
        for name, found in logits.items()
    }


def rows_of(
    threads: int, model: nn.Module, files: dict[str, Path], images: Tensor, labels: Tensor
) -> list[dict]:
    """One row per form: the run's model, and every ONNX file among those that hold weights."""
    torch.set_num_threads(threads)  # before onnxruntime starts as many
    runs: dict[str, Run] = {
        form: load(path, "onnx") if path.suffix == ".onnx" else model for form, path in files.items()
    }
    found = accuracy(runs, images, labels)
    rows = {
        form: {"form": form, "threads": threads, **found[form], "kb": path.stat().st_size / 1e3}
        for form, path in files.items()
    }
    for size in (1, BATCH):
        times = measure({form: partial(run, images[:size]) for form, run in runs.items()})
        for form, row in rows.items():
            row[f"images_per_s_batch_{size}"] = size / times[form]["median"]
    return list(rows.values())


@torch.inference_mode()
def compare(run: Path, folder: Path) -> list[dict[str, Any]]:
    """The rows of every number of threads, on images that neither training nor the choice of weights has seen."""
    cfg = run_settings(run)
    data = build_data(cfg)
    images, labels = (torch.cat(parts) for parts in zip(*eval_loader(data.test, BATCH, 0), strict=True))
    model = best_model(run, cfg, data)
    whole, small = (written.path for written in export(str(run), "onnx", folder / "digits.onnx", int8=True))
    files = {"PyTorch": run / "model" / "model.safetensors", "onnxruntime": whole, "onnxruntime, int8": small}
    rows = [row for threads in thread_counts() for row in rows_of(threads, model, files, images, labels)]
    torch.set_num_threads(CORES)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, export, compare, store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, help="a finished run on the digits, in place of a new one")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as temporary:
        run = options.run or Path(temporary) / "run"
        if options.run is None:
            launch(composed_settings([]), run)
        rows = compare(run, Path(temporary))
    table(rows, list(rows[0]))
    about = (
        "the small Vim of `python train.py` on the digits' test images; top1: per cent; other_answers: images that "
        "PyTorch names otherwise; difference: largest of a logit from PyTorch's, as a share of their standard "
        "deviation; kb: of the file with the weights; speed one image at a time and in batches, all forms interleaved"
    )
    write("export_digits", rows, about)


if __name__ == "__main__":
    main()
