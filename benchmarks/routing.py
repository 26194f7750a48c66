"""What MambaIRv2's routes cost and give: ``python benchmarks/routing.py [--epochs N]``.

Trains a small MambaIRv2 to denoise the bundled photographs with random routes (as published) and with the likeliest
ones, continues the first either way, and evaluates all of them on held-out photographs with either kind of route.
Writes ``benchmarks/results/MACHINE/routing.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
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
SEEDS = range(5)


def trained(folder: Path, routing: str, epochs: int, start: Path | None = None) -> dict[str, Any]:
    """Train into ``folder`` and return the settings."""
    words = [f"+model.routing={routing}", f"run.epochs={epochs}"]
    if start is not None:
        words += [f"+model.start={start / 'best.pt'}", "optim.lr=1.0e-3"]
    cfg = composed_settings([*SETTINGS, *words])
    launch(cfg, folder)
    return cfg


def scores(folder: Path, cfg: dict[str, Any], routing: str) -> dict[str, float]:
    """PSNR and SSIM of the held-out photographs; of random routes the mean over seeds, and the seeds' deviation."""
    data = build_data(cfg)
    model: Any = best_model(folder, cfg, data)
    model.routing = routing
    assert data.test is not None
    found = []
    for seed in SEEDS if routing == "gumbel" else SEEDS[:1]:
        restore = Restorer(model, tile="official", seed=seed)
        pairs = []
        for low, high in (data.test[index] for index in range(len(data.test))):
            pixels = torch.from_numpy(restore(low.permute(1, 2, 0).numpy())).permute(2, 0, 1)
            pairs.append(measured(pixels, high, data.scale))
        found.append([statistics.fmean(values) for values in zip(*pairs, strict=True)])
    psnr, ssim = ([one[column] for one in found] for column in (0, 1))
    spread = statistics.stdev(psnr) if len(psnr) > 1 else 0.0
    return {"psnr": statistics.fmean(psnr), "ssim": statistics.fmean(ssim), "spread_db": spread}


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the margin over random routes throughout, after as many updates."""
    published = {
        row["updates"]: row["psnr"]
        for row in rows
        if row["evaluated_with"] == "gumbel" and "argmax" not in row["trained_with"]
    }
    return [row | {"margin_db": row["psnr"] - published[row["updates"]]} for row in rows]


def bench(epochs: int, folder: Path) -> None:
    """Train, evaluate, store."""
    more = max(1, epochs // 3)
    plans = {
        "gumbel": ("gumbel", epochs, None),
        "argmax": ("argmax", epochs, None),
        "gumbel, then gumbel": ("gumbel", more, "gumbel"),
        "gumbel, then argmax": ("argmax", more, "gumbel"),
    }
    rows = []
    for name, (routing, count, start) in plans.items():
        out = folder / name.replace(", ", "-").replace(" ", "-")
        cfg = trained(out, routing, count, start and folder / start)
        updates = json.loads((out / "metrics.json").read_text())["epochs"][-1]["step"]
        updates += rows[0]["updates"] if start else 0
        for evaluated in ("gumbel", "argmax"):
            row = {"trained_with": name, "updates": updates, "evaluated_with": evaluated}
            rows.append(row | scores(out, cfg, evaluated))
    rows = compared(rows)
    table(rows, list(rows[0]))
    parameters = sum(p.numel() for p in best_model(folder / "argmax", cfg, build_data(cfg)).parameters())
    about = (
        f"MambaIRv2 of {parameters:,} parameters, noise of deviation 25 on the bundled photographs: mean PSNR in dB "
        f"and SSIM of the held-out ones; gumbel: routes drawn at random, mean over {len(SEEDS)} seeds; spread: "
        "standard deviation of PSNR over the seeds; argmax: the likeliest routes; margin: PSNR above that of random "
        "routes in training and evaluation after as many updates"
    )
    write("routing", rows, about)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=6, help="of 200 updates; default: 6")
    parser.add_argument("--out", type=Path, help="keep the run folders here")
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        bench(options.epochs, options.out or Path(temporary))


if __name__ == "__main__":
    sys.exit(main())
