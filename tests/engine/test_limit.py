"""``run.limit_batches``: a fixed sample of all images, and tables and pictures of that sample."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset
from trainer_helpers import composed, make_images

from vimzoo import eval as eval_command
from vimzoo.data import eval_loader, image_folder, sample
from vimzoo.data.images.classes import numbered_as
from vimzoo.engine import launch
from vimzoo.engine.reports import report
from vimzoo.engine.tasks import classification

WORDS = [
    "model=timm", "model.model_name=test_resnet", "data=folder", "data.img_size=16", "data.batch_size=4",
    "data.workers=0", "run.device=cpu", "run.ema=null", "run.epochs=1", "run.limit_batches=3",
]  # fmt: skip


@pytest.mark.parametrize(("size", "count"), [(10, 3), (10, 7), (10, 9), (1000, 64), (7, 1)])
def test_a_sample_is_of_all_stretches_and_always_the_same(size: Any, count: Any) -> None:
    numbers = TensorDataset(torch.arange(size))
    chosen = [int(number) for (number,) in sample(numbers, count)]
    assert chosen == sorted(set(chosen)) and len(chosen) == count
    stretches = np.searchsorted(np.arange(1, count + 1) * size // count, chosen, side="right")
    assert stretches.tolist() == list(range(count))
    assert chosen == [int(number) for (number,) in sample(numbers, count)]
    assert sample(numbers, size) is numbers


def test_a_sample_does_not_beat_in_time_with_the_classes() -> None:
    """Classes that alternate would be one class at every second image."""
    labels = TensorDataset(torch.arange(400) % 2)
    assert 35 < sum(int(label) for (label,) in sample(labels, 100)) < 65


def test_shapes_and_names_go_with_their_images(tmp_path: Path) -> None:
    root = make_images(tmp_path, {"a": 30, "b": 30})
    data = image_folder(str(root), img_size=32, sides=[16, 32], step=8, test_fraction=1)
    data = numbered_as(data, ["b", "a", "c"], "a model")
    batches = list(eval_loader(data.test, 4, limit=3))
    labels = [int(label) for _, labels in batches for label in labels]
    assert len(labels) == 12 and set(labels) == {0, 1}


def test_a_limited_run_scores_a_sample_and_its_evaluation_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sheets = []
    monkeypatch.setattr(
        classification,
        "prediction_sheet",
        lambda images, guesses, truth, *_: sheets.append(([images[i][1] for i in range(len(images))], truth)),
    )
    monkeypatch.setattr(report, "curves", lambda *_: None)
    root = make_images(tmp_path / "photos", {name: 30 for name in "abcde"})
    launch(composed(*WORDS, f"data.root={root}", "data.test_fraction=0.4"), tmp_path / "run")
    said = capsys.readouterr().out
    shown, truth = sheets[-1]
    assert shown == truth.tolist() and len(shown) == 12 and len(set(shown)) == 5
    total = len(image_folder(str(root), test_fraction=0.4).test)
    assert f"scores are of 12 of {total} test images" in said
    numbers = eval_command.evaluation([str(tmp_path / "run")])
    assert numbers["images"] == total and "here all images are evaluated" in capsys.readouterr().err
    rows = list(csv.DictReader((tmp_path / "run/eval/classes.csv").open()))
    assert all(int(row["images"]) > 0 for row in rows)
    again = eval_command.evaluation([str(tmp_path / "run"), "run.limit_batches=3"])
    assert again["top1"] == json.loads((tmp_path / "run/metrics.json").read_text())["test"]["top1"]


def test_tables_of_restored_images_are_of_the_split_that_is_evaluated(tmp_path: Path) -> None:
    """``--split val`` names and counts the validation images."""
    root = make_images(tmp_path / "photos", {"train": 3, "val": 2, "test": 4}, size=24)
    words = [
        "task=restore",
        "model=mambair_photos",
        "data=degraded_folder",
        f"data.root={root}",
        "data.sigma=25",
    ]
    words += ["loss=l1", "data.crop=16", "data.workers=0", "run.device=cpu"]
    for split, count in (("val", 2), ("test", 4)):
        eval_command.evaluation(words, split, tmp_path / split)
        rows = list(csv.DictReader((tmp_path / split / "images.csv").open()))
        assert [(row["data set"], row["image"]) for row in rows] == [(split, str(i)) for i in range(count)]
