"""What `vimzoo.quantize` and torchao cost and give on a CPU: ``python benchmarks/quantisers.py [--run RUN]``.

Needs torchao. Trains as ``python train.py`` does, quantises the model in every way that a CPU can run, has all of them
name the same test images, and times them, called as they are and compiled. Larger models, with random weights, are
timed too. Writes ``benchmarks/results/MACHINE/quantisers.json``.
"""

from __future__ import annotations

import argparse
import copy
import io
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from common import CORES, measure, table, write
from export import accuracy
from torch import Tensor, nn
from torchao.quantization import (
    Float8WeightOnlyConfig,
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    quantize_,
)

import vimzoo
import vimzoo.quantization
from vimzoo.data import eval_loader
from vimzoo.engine import launch
from vimzoo.engine.build import build_data
from vimzoo.engine.configuration.words import composed_settings
from vimzoo.engine.finished import best_model, run_settings

TORCHAO: dict[str, Callable[[], Any]] = {
    "int8": Int8WeightOnlyConfig,
    "int8 dynamic": Int8DynamicActivationInt8WeightConfig,
    "float8": Float8WeightOnlyConfig,
    "int4": lambda: IntxWeightOnlyConfig(torch.int4),
}
OURS = tuple(f"vimzoo {kind}" for kind in vimzoo.quantization.KINDS)
KINDS = ("float32", *OURS, *TORCHAO)
LARGER = ("vim_tiny_patch16_224", "vmamba_tiny_s1l8")
BATCH = 64


def quantised(model: nn.Module, kind: str) -> nn.Module:
    """A copy of ``model``, quantised in one of the `KINDS`."""
    if kind in OURS:
        return vimzoo.quantize(model, kind.partition(" ")[2])
    model = copy.deepcopy(model)
    if kind in TORCHAO:
        quantize_(model, TORCHAO[kind]())
    return model


def kilobytes(model: nn.Module) -> float:
    """Of a file with the model's state."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return len(file.getvalue()) / 1e3


def speeds(
    models: dict[str, Callable[[Tensor], Tensor]], images: Tensor, timed: bool
) -> dict[str, float | None]:
    """Images per second, one batch after the other, all models in turn; None if not ``timed``."""
    if not timed:
        return dict.fromkeys(models)
    times = measure({name: partial(model, images) for name, model in models.items()}, budget=12.0)
    return {name: len(images) / spent["median"] for name, spent in times.items()}


def rows_of_digits(run: Path, timed: bool) -> list[dict[str, Any]]:
    """The rows of a run on the digits, on images that neither training nor the choice of weights has seen."""
    cfg = run_settings(run)
    data = build_data(cfg)
    images, labels = (torch.cat(parts) for parts in zip(*eval_loader(data.test, BATCH, 0), strict=True))
    base = best_model(run, cfg, data)
    eager = {kind: quantised(base, kind) for kind in KINDS}
    compiled = {
        f"{kind}, compiled": torch.compile(model)
        for kind, model in eager.items()
        if timed and kind not in OURS
    }
    models: dict[str, Any] = {**eager, **compiled}
    found = accuracy(models, images, labels)
    one, many = (speeds(models, images[:size], timed) for size in (1, BATCH))
    return [
        {"model": "vim_digits", "form": name, **found[name], "kb": kilobytes(eager[name.partition(",")[0]])}
        | {"images_per_s_batch_1": one[name], f"images_per_s_batch_{BATCH}": many[name]}
        for name in models
    ]


def rows_of_larger(name: str, timed: bool) -> list[dict[str, Any]]:
    """The rows of a model with random weights: how far outputs move, and the speed of one image at a time."""
    torch.manual_seed(0)
    base, images = timm.create_model(name).eval(), torch.rand(1, 3, 224, 224)
    models = {kind: quantised(base, kind) for kind in KINDS}
    wanted, fast = base(images), speeds(models, images, timed)
    return [
        {"model": name, "form": kind, "images": None, "top1": None, "other_answers": None}
        | {"difference": ((model(images) - wanted).abs().max() / wanted.std()).item(), "kb": kilobytes(model)}
        | {"images_per_s_batch_1": fast[kind], f"images_per_s_batch_{BATCH}": None}
        for kind, model in models.items()
    ]


@torch.no_grad()
def compare(run: Path, timed: bool) -> list[dict[str, Any]]:
    """All rows, with one thread."""
    torch.set_num_threads(1)
    rows = [row for name in LARGER for row in rows_of_larger(name, timed)]
    rows = [*rows_of_digits(run, timed), *rows]
    if not timed:
        rows = [{k: v for k, v in row.items() if not k.startswith("images_per_s")} for row in rows]
    torch.set_num_threads(CORES)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, quantise, compare, store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, help="a finished run on the digits, in place of a new one")
    parser.add_argument("--no-times", action="store_true", help="only accuracy and sizes, on a busy machine")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as temporary:
        run = options.run or Path(temporary) / "run"
        if options.run is None:
            launch(composed_settings([]), run)
        rows = compare(run, not options.no_times)
    table(rows, list(rows[0]))
    about = (
        f"torchao {version('torchao')} unless named vimzoo, one thread; vim_digits: the small Vim of `python train.py` "
        "on the digits' test images; the others have random weights; compiled: by torch.compile; top1: per cent; "
        "other_answers: images that the float32 model names otherwise; difference: largest of a logit from float32's, "
        "as a share of their standard deviation; kb: of a file with the weights; speed one image at a time and in "
        "batches, all forms interleaved"
    )
    write("quantisers", rows, about)


if __name__ == "__main__":
    main()
