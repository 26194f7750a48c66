"""Restoration in 8 and 4 bits: ``python benchmarks/quantised_restoration.py``.

Quantises the two small models that the package brings in every way of `vimzoo.quantize`, saves each with the trainer's
checkpoints and loads it again, restores the held-out photographs with what was loaded, and times it. Writes
``benchmarks/results/MACHINE/quantised_restoration.json``.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from common import measure, table, write
from torch import nn

import vimzoo
from vimzoo.engine.build import build_data
from vimzoo.engine.checkpoints import checkpoint
from vimzoo.engine.configuration.words import composed_settings
from vimzoo.engine.tasks.restoration import measured
from vimzoo.quantization import KINDS

MODELS = {
    "mambair_mini_x2": ["experiment=photos_sr_x2"],
    "mambair_mini_dn": ["experiment=photos_denoise", "data.sigma=25"],
}
"""Each model with the settings that give its photographs."""
SIDE = 48
"""Height and width of the images that are timed."""
BATCHES = (1, 32)


def through_a_file(model: nn.Module, empty: nn.Module, path: Path) -> nn.Module:
    """``empty`` with the weights of ``model``, which go through a checkpoint.

    Raises:
        UsageError: a tensor is missing or has another shape.
    """
    checkpoint.write({"model": model.state_dict(), "epoch": 0, "step": 0}, path)
    checkpoint.load_weights(empty, checkpoint.read(path)["model"], path)
    return empty


@torch.inference_mode()
def compare(name: str, settings: list[str], folder: Path, timed: bool) -> list[dict[str, Any]]:
    """A row for the float32 model and for each kind."""
    data = build_data(composed_settings(settings))
    assert data.test is not None
    photographs = [data.test[index] for index in range(len(data.test))]
    model = timm.create_model(name, pretrained=True).eval()
    models = {"float32": through_a_file(model, timm.create_model(name).eval(), folder / "float32.pt")}
    for kind in KINDS:
        empty = vimzoo.quantize(timm.create_model(name), kind)
        models[kind] = through_a_file(vimzoo.quantize(model, kind), empty, folder / f"{kind}.pt")
    seconds: dict[tuple[str, int], float] = {}
    for batch in BATCHES if timed else ():
        images = torch.rand(batch, 3, SIDE, SIDE)
        times = measure({kind: partial(m, images) for kind, m in models.items()}, budget=6.0)
        seconds |= {(kind, batch): spent["median"] for kind, spent in times.items()}
    rows, exact = [], 0.0
    for kind, restorer in models.items():
        found = [measured(restorer(low[None])[0], high, data.scale) for low, high in photographs]
        psnr = mean(psnr for psnr, _ in found)
        exact = psnr if kind == "float32" else exact
        size = sum(tensor.nbytes for tensor in restorer.state_dict().values())
        row: dict[str, Any] = {"model": name, "weights": kind, "psnr": psnr, "psnr_change": psnr - exact}
        row |= {"ssim": mean(ssim for _, ssim in found), "kb": size / 1e3}
        rows.append(
            row | {f"images_per_s_batch_{batch}": batch / seconds[kind, batch] for batch in BATCHES if timed}
        )
    return rows


def main() -> None:
    """Measure both models with one thread, print and store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--no-times", action="store_true", help="only quality and sizes, on a busy machine")
    timed = not parser.parse_args().no_times
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for name, settings in MODELS.items():
        with TemporaryDirectory() as folder:
            rows += compare(name, settings, Path(folder), timed)
    table(rows, list(rows[0]))
    about = (
        "models that the package brings, quantised, saved and loaded as checkpoints of the trainer; PSNR in dB and "
        "SSIM, means over the held-out photographs: at twice the size, and without noise of deviation 25; "
        "psnr_change: in dB, from that of the float32 weights; kb: of the model's tensors in memory"
    )
    if timed:
        about += f"; speed on images of {SIDE} x {SIDE} pixels with one thread, all interleaved"
    write("quantised_restoration", rows, about)


if __name__ == "__main__":
    main()
