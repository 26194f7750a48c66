"""Accuracy of the classifiers that ship, on scikit-learn's held-out digits: ``python benchmarks/shipped_digits.py``.

``--train SEED`` trains ``experiment=digits_tests`` first and measures the result instead, beside the others.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from common import RESULTS, table, write
from torch import nn

from vimzoo.data import bundled_digits
from vimzoo.engine import launch
from vimzoo.engine.configuration.words import composed_settings

MODELS = ("test_vim", "test_vmamba")
ABOUT = (
    "scikit-learn's digits, enlarged to 64 x 64 in three channels: share of the held-out fifth that models recognise, "
    "in per cent"
)  # fmt: skip


@torch.inference_mode()
def accuracy(model: nn.Module) -> tuple[float, int]:
    """Top-1 accuracy in per cent, and the number of images."""
    data = bundled_digits(64, in_chans=3).test
    assert data is not None
    images, labels = data.tensors  # type: ignore[attr-defined]
    right = (model(images).argmax(1) == labels).float().mean().item()
    return 100 * right, len(labels)


def trained(name: str, seed: int) -> nn.Module:
    """The result of the recipe."""
    with TemporaryDirectory() as folder:
        words = ["experiment=digits_tests", f"model={name}", f"run.seed={seed}"]
        launch(composed_settings(words), Path(folder))
        return timm.create_model(f"local-dir:{folder}/model", pretrained=True).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", metavar="SEED", type=int, help="train by the recipe with this seed first")
    seed = parser.parse_args().train
    path = RESULTS / "shipped_digits.json"
    weights = "shipped" if seed is None else f"seed {seed}"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.is_file() else []
    rows = [row for row in rows if row["weights"] != weights]
    for name in MODELS:
        model = timm.create_model(name, pretrained=True).eval() if seed is None else trained(name, seed)
        top1, count = accuracy(model)
        rows.append({"model": name, "weights": weights, "images": count, "top1": top1})
    table(rows, list(rows[0]))
    write("shipped_digits", rows, ABOUT, timed=False)


if __name__ == "__main__":
    sys.exit(main())
