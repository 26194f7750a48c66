"""What a small MambaIR learns from photographs in minutes: ``python benchmarks/photos.py [denoise|sr_x2]``.

Runs ``experiment=photos_denoise`` and ``experiment=photos_sr_x2`` as anyone would, restores held-out photographs with
the result and with the classical method, and writes ``benchmarks/results/MACHINE/photos_*.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from common import table, write
from torch import Tensor

from vimzoo.data.pairs.degradations import imresize
from vimzoo.data.pairs.photos import PHOTOS
from vimzoo.engine import launch
from vimzoo.engine.build import build_data
from vimzoo.engine.configuration.words import composed_settings
from vimzoo.engine.finished import best_model
from vimzoo.engine.tasks.restoration import measured

Restore = Callable[[Tensor], Tensor]
CLASSICAL = {
    "denoise": "non-local means with the best of three strengths for each photograph",
    "sr_x2": "bicubic enlargement",
}
"""What the trained models are compared with."""


def non_local_means(sigma: float, strength: float) -> Restore:
    """scikit-image's, the exact and slower form, told the noise; ``strength`` is its h as a share of it."""
    from skimage.restoration import denoise_nl_means

    def restore(low: Tensor) -> Tensor:
        pixels = low.permute(1, 2, 0).numpy()
        level = sigma / 255
        done = denoise_nl_means(
            pixels,
            patch_size=5,
            patch_distance=7,
            h=strength * level,
            sigma=level,
            fast_mode=False,
            channel_axis=2,
        )
        return torch.from_numpy(done).permute(2, 0, 1).float()

    return restore


def classical(name: str, cfg: dict[str, Any], low: Tensor, high: Tensor) -> tuple[float, float, str]:
    """PSNR and SSIM of the classical method and its name; the strength of non-local means is chosen by the answer."""
    if name == "sr_x2":
        return *measured(imresize(low, 2), high, 2), "bicubic"
    sigma = cfg["data"]["sigma"]
    tried = [
        (*measured(non_local_means(sigma, h)(low), high, 1), f"non-local means, h {h} sigma")
        for h in (0.7, 0.75, 0.8)
    ]
    return max(tried)


@torch.inference_mode()
def compare(name: str, cfg: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Every held-out photograph by the trained model and by the classical method."""
    data = build_data(cfg)
    model = best_model(folder, cfg, data)
    rows = []
    assert data.test is not None
    for index, file in enumerate(PHOTOS["test"]):
        low, high = data.test[index]
        psnr, ssim = measured(model(low[None])[0], high, data.scale)
        other, other_ssim, what = classical(name, cfg, low, high)
        row: dict[str, Any] = {"photograph": Path(file).stem, "psnr": psnr, "ssim": ssim}
        rows.append(
            row
            | {
                "classical": what,
                "classical_psnr": other,
                "classical_ssim": other_ssim,
                "margin_db": psnr - other,
            }
        )
    return rows


def bench(name: str, overrides: Sequence[str], out: Path) -> None:
    """Train, compare, store."""
    cfg = composed_settings([f"experiment=photos_{name}", *overrides])
    start = time.perf_counter()
    launch(cfg, out)
    seconds = time.perf_counter() - start
    rows = compare(name, cfg, out)
    history = json.loads((out / "metrics.json").read_text())["epochs"]
    for row in rows:
        row |= {"training_s": seconds, "updates": history[-1]["step"]}
    table(rows, list(rows[0]))
    about = (
        f"experiment=photos_{name}: PSNR in dB and SSIM of held-out photographs after so many seconds of training with "
        f"{torch.get_num_threads()} threads, beside {CLASSICAL[name]}; margin: PSNR above it; other work may "
        "have been running"
    )
    write(f"photos_{name}", rows, about)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=["denoise", "sr_x2", []], help="which; both if not given")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of the experiment"
    )
    parser.add_argument("--out", type=Path, help="keep the run folders here")
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        for name in options.names or ("denoise", "sr_x2"):
            bench(name, options.set, (options.out or Path(temporary)) / name)


if __name__ == "__main__":
    sys.exit(main())
