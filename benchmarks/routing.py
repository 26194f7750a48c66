"""What MambaIRv2's routes cost and give: ``python benchmarks/routing.py [--epochs N] [--seeds 0 1 2]``.

Trains a small MambaIRv2 to denoise the bundled photographs with random routes (as published) and with the likeliest
ones, continues the first either way, and evaluates all of them on held-out photographs with either kind of route;
once per seed of the training. With ``--out FOLDER`` finished runs are kept there and not repeated.
Writes ``benchmarks/results/MACHINE/routing.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from common import table, write

from vimzoo.engine import launch
from vimzoo.engine.build import build_data
from vimzoo.engine.configuration.words import composed_settings
from vimzoo.engine.finished import best_model
from vimzoo.engine.tasks.restoration import measured
from vimzoo.restoration import Restorer

NETWORK = {
    "model_name": "mambairv2_dn", "+embed_dim": 24, "+depths": "[2,2]", "+num_heads": 2, "+window": 8,
    "+d_state": 4, "+ratio": 1.5, "+num_tokens": 16, "+rank": 8,
}  # fmt: skip
SETTINGS = [
    "experiment=photos_denoise", "model=restoration", "data.crop=32", "data.crops=800", "data.eval_crop=128",
    "run.ema.decay=0.99",
]  # fmt: skip
SETTINGS += [f"{'+' * key.startswith('+')}model.{key.lstrip('+')}={value}" for key, value in NETWORK.items()]
DRAWS = range(5)
"""Seeds of random routes in evaluation."""


def trained(
    folder: Path, routing: str, epochs: int, seed: int = 0, start: Path | None = None
) -> dict[str, Any]:
    """Train into ``folder``, unless a run has been finished there, and return the settings."""
    words = [f"+model.routing={routing}", f"run.epochs={epochs}", f"run.seed={seed}"]
    if start is not None:
        words += [f"+model.start={start / 'best.pt'}", "optim.lr=1.0e-3"]
    cfg = composed_settings([*SETTINGS, *words])
    if not (folder / "metrics.json").is_file() or len(epochs_of(folder)) < epochs:
        launch(cfg, folder)
    return cfg


def epochs_of(folder: Path) -> list[dict[str, Any]]:
    """What the run in ``folder`` has recorded of its epochs."""
    return json.loads((folder / "metrics.json").read_text())["epochs"]


def scores(folder: Path, cfg: dict[str, Any], routing: str) -> dict[str, float]:
    """PSNR and SSIM of the held-out photographs; of random routes the mean over draws, and the draws' deviation."""
    data = build_data(cfg)
    model: Any = best_model(folder, cfg, data)
    model.routing = routing
    assert data.test is not None
    found = []
    for seed in DRAWS if routing == "gumbel" else DRAWS[:1]:
        restore = Restorer(model, tile="official", seed=seed)
        pairs = []
        for low, high in (data.test[index] for index in range(len(data.test))):
            pixels = torch.from_numpy(restore(low.permute(1, 2, 0).numpy())).permute(2, 0, 1)
            pairs.append(measured(pixels, high, data.scale))
        found.append([statistics.fmean(values) for values in zip(*pairs, strict=True)])
    psnr, ssim = ([one[column] for one in found] for column in (0, 1))
    draws = statistics.stdev(psnr) if len(psnr) > 1 else 0.0
    return {"psnr": statistics.fmean(psnr), "ssim": statistics.fmean(ssim), "spread_db": draws}


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one seed with the margin over random routes throughout, after as many updates."""
    published = {
        row["updates"]: row["psnr"]
        for row in rows
        if row["evaluated_with"] == "gumbel" and "argmax" not in row["trained_with"]
    }
    return [row | {"margin_db": row["psnr"] - published[row["updates"]]} for row in rows]


def measured_once(seed: int, epochs: int, folder: Path) -> list[dict[str, Any]]:
    """The rows of one seed: train every plan, evaluate it with either kind of route."""
    more = max(1, epochs // 5)
    plans = {
        "gumbel": ("gumbel", epochs, None),
        "argmax": ("argmax", epochs, None),
        "gumbel, then gumbel": ("gumbel", more, "gumbel"),
        "gumbel, then argmax": ("argmax", more, "gumbel"),
    }
    rows: list[dict[str, Any]] = []
    for name, (routing, count, start) in plans.items():
        out = folder / name.replace(", ", "-").replace(" ", "-")
        cfg = trained(out, routing, count, seed, start and folder / start)
        updates = epochs_of(out)[-1]["step"] + (rows[0]["updates"] if start else 0)
        for evaluated in ("gumbel", "argmax"):
            row = {"trained_with": name, "updates": updates, "evaluated_with": evaluated}
            rows.append(row | scores(out, cfg, evaluated))
    return compared(rows)


def averaged(seeds: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One row of each kind: means over the seeds of the training, and the standard deviation of the margin."""
    rows = []
    for kind in zip(*seeds, strict=True):
        row = dict(kind[0])
        for key in ("psnr", "ssim", "spread_db", "margin_db"):
            row[key] = statistics.fmean(one[key] for one in kind)
        margins = [one["margin_db"] for one in kind]
        rows.append(row | {"seeds_db": statistics.stdev(margins) if len(margins) > 1 else 0.0})
    return rows


def bench(epochs: int, seeds: Sequence[int], folder: Path) -> None:
    """Train, evaluate, store."""
    rows = averaged([measured_once(seed, epochs, folder / str(seed)) for seed in seeds])
    table(rows, list(rows[0]))
    cfg = composed_settings(SETTINGS)
    run = folder / str(seeds[0]) / "argmax"
    parameters = sum(p.numel() for p in best_model(run, cfg, build_data(cfg)).parameters())
    about = (
        f"MambaIRv2 of {parameters:,} parameters, noise of deviation 25 on the bundled photographs, trained with "
        f"{len(seeds)} seeds: mean PSNR in dB and SSIM of the held-out ones; gumbel: routes drawn at random, mean over "
        f"{len(DRAWS)} draws; spread: standard deviation of PSNR over the draws; argmax: the likeliest routes; margin: "
        "PSNR above that of random routes in training and evaluation with the same seed after as many updates; seeds: "
        "its standard deviation over the seeds"
    )
    write("routing", rows, about)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10, help="of 200 updates; default: 10")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the training; default: 0 1 2"
    )
    parser.add_argument("--out", type=Path, help="keep the run folders here, and use finished ones")
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        bench(options.epochs, options.seeds, options.out or Path(temporary))


if __name__ == "__main__":
    sys.exit(main())
