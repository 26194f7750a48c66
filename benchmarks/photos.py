"""How well the restoration models that ship restore held-out photographs: ``python benchmarks/photos.py``.

``--train`` trains ``experiment=photos_denoise`` and ``experiment=photos_sr_x2`` first and measures the results instead,
which are stored beside the others as rows of another seed. Writes ``benchmarks/results/photos_*.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from common import RESULTS, table, write
from torch import Tensor, nn

from vimzoo.data import bundled_photos
from vimzoo.data.pairs.degradations import imresize
from vimzoo.data.pairs.photos import PHOTOS
from vimzoo.engine import launch
from vimzoo.engine.configuration.words import composed_settings
from vimzoo.engine.tasks.restoration import measured

Restore = Callable[[Tensor], Tensor]
MODELS = {"denoise": "mambair_mini_dn", "sr_x2": "mambair_mini_x2"}
TASKS: dict[str, list[dict[str, Any]]] = {
    "denoise": [{"sigma": sigma, "rounded": True} for sigma in (15, 25, 50)],
    "sr_x2": [{"scale": 2}],
}
"""What is done to the photographs, as `bundled_photos` takes it."""
STRENGTH = 0.75
"""Of non-local means, as a share of sigma: the best of 0.7, 0.75 and 0.8 for two photographs at 25."""
ABOUT = {
    "denoise": (
        "held-out photographs with white noise of deviation sigma, rounded to 8 bits: PSNR in dB on all channels as "
        "they are, of scikit-image's non-local means, which is told sigma (h 0.75 sigma), and of the model, which is "
        "told nothing; margin: above non-local means"
    ),
    "sr_x2": (
        "held-out photographs reduced to half their sides: PSNR in dB on luma of bicubic enlargement and of the model; "
        "margin: above bicubic"
    ),
}  # fmt: skip


def non_local_means(low: Tensor, high: Tensor, sigma: float) -> float:
    """PSNR of scikit-image's, the exact and slower form, told the noise."""
    from skimage.restoration import denoise_nl_means

    options = dict(patch_size=5, patch_distance=7, fast_mode=False, channel_axis=2)
    level = sigma / 255
    done = denoise_nl_means(low.permute(1, 2, 0).numpy(), h=STRENGTH * level, sigma=level, **options)
    return measured(torch.from_numpy(done).permute(2, 0, 1).float(), high, 1)[0]


@torch.inference_mode()
def compared(name: str, model: nn.Module, seed: str) -> Iterator[dict[str, Any]]:
    """A row for every held-out photograph and degradation, and the mean of each degradation."""
    for degradation in TASKS[name]:
        data, rows = bundled_photos(**degradation), []
        assert data.test is not None
        for index, file in enumerate(PHOTOS["test"]):
            low, high = data.test[index]
            row: dict[str, Any] = {"model": MODELS[name], "weights": seed, "photograph": Path(file).stem}
            if name == "denoise":
                row |= {"sigma": degradation["sigma"], "noisy": measured(low, high, 1)[0]}
                other = {"non_local_means": non_local_means(low, high, degradation["sigma"])}
            else:
                other = {"bicubic": measured(imresize(low, 2), high, 2)[0]}
            psnr, ssim = measured(model(low[None])[0], high, data.scale)
            rows.append(
                row | other | {"psnr": psnr, "ssim": ssim, "margin_db": psnr - next(iter(other.values()))}
            )
        means = {
            key: statistics.fmean(row[key] for row in rows)
            for key in rows[0]
            if isinstance(rows[0][key], float)
        }
        yield from (*rows, rows[0] | {"photograph": "mean"} | means)


def trained(name: str, seed: int) -> nn.Module:
    """The result of the recipe."""
    with TemporaryDirectory() as folder:
        launch(composed_settings([f"experiment=photos_{name}", f"run.seed={seed}"]), Path(folder))
        return timm.create_model(f"local-dir:{folder}/model", pretrained=True).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*MODELS, []], help="which; both if not given")
    parser.add_argument("--train", metavar="SEED", type=int, help="train by the recipe with this seed first")
    options = parser.parse_args()
    for name in options.names or MODELS:
        if options.train is None:
            rows = list(compared(name, timm.create_model(MODELS[name], pretrained=True).eval(), "shipped"))
        else:
            path = RESULTS / f"photos_{name}.json"
            kept = json.loads(path.read_text())["rows"] if path.is_file() else []
            seed = f"seed {options.train}"
            new = [
                row
                for row in compared(name, trained(name, options.train), seed)
                if row["photograph"] == "mean"
            ]
            rows = [row for row in kept if row["weights"] != seed] + new
        table(rows, list(rows[0]))
        write(f"photos_{name}", rows, ABOUT[name], timed=False)


if __name__ == "__main__":
    sys.exit(main())
