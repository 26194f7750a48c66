"""Experts beside a dense MLP at equal operations: ``python benchmarks/moe.py [--epochs N] [--seeds 0 1 2]``.

Trains a small VMamba on the bundled digits with either kind of MLP, with the same settings, once per seed. Each token
takes one of four experts, each as wide as the dense MLP, so that only the router adds operations. Writes
``benchmarks/results/MACHINE/moe.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
from common import table, write

import vimzoo  # noqa: F401  registers the models
from vimzoo.engine import launch
from vimzoo.engine.configuration.words import composed_settings

MODEL = "test_vmamba"
EXPERTS = 4
KINDS: dict[str, dict[str, Any]] = {
    "dense": {},
    "moe": {"mlp": "moe", "mlp_args": {"experts": EXPERTS, "top_k": 1}},
}


def trained(folder: Path, kind: str, epochs: int, seed: int) -> dict[str, float]:
    """Train into ``folder``; accuracy and loss of the test images."""
    words = ["model=timm", f"model.model_name={MODEL}", f"run.epochs={epochs}", f"run.seed={seed}"]
    if kind == "moe":
        words += ["+model.mlp=moe", f"+model.mlp_args={{experts:{EXPERTS},top_k:1}}"]
    launch(composed_settings(words), folder)
    found = json.loads((folder / "metrics.json").read_text())
    return {"top1": found["test"]["top1"], "loss": found["test"]["loss"]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, compare, store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args(arguments)
    rows = []
    for kind, extra in KINDS.items():
        with TemporaryDirectory() as temporary:
            runs = [
                trained(Path(temporary) / str(seed), kind, options.epochs, seed) for seed in options.seeds
            ]
        top1 = [run["top1"] for run in runs]
        model = timm.create_model(MODEL, num_classes=10, in_chans=1, **extra)
        rows.append({
            "mlp": kind,
            "parameters": sum(p.numel() for p in model.parameters()),
            "top1": statistics.fmean(top1),
            "top1_spread": statistics.stdev(top1) if len(top1) > 1 else 0.0,
            "loss": statistics.fmean(run["loss"] for run in runs),
        })  # fmt: skip
    table(rows, list(rows[0]))
    about = (
        f"{MODEL} on the bundled digits, {options.epochs} epochs, {len(options.seeds)} seeds: mean accuracy of the "
        "test images in per cent, its standard deviation over the seeds, and mean loss; "
        f"moe: {EXPERTS} experts as wide as the dense MLP, one of them for each token"
    )
    write("moe", rows, about)


if __name__ == "__main__":
    main()
