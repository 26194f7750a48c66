"""Names of any text are drawn, and what cannot be drawn costs nothing but a warning."""

import csv
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trainer_helpers import small

from vimzoo import eval as eval_command
from vimzoo.commands import run_command
from vimzoo.engine import launch
from vimzoo.engine.reports import report
from vimzoo.engine.tasks import classification

NAMES = ["a$b", "$\\frac{", "\u732b", os.fsdecode(b"caf\xe9"), "{x} %s #1", "it's"]


@pytest.fixture
def photos(tmp_path):
    """One image of each class for training, validation and test."""
    for split in ("train", "val", "test"):
        for index, name in enumerate(NAMES):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            Image.fromarray(np.full((16, 16, 3), 40 * index, np.uint8)).save(folder / "1.png")
    return tmp_path / "photos"


def test_classes_of_any_name(photos: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data=folder", f"data.root={photos}", "data.img_size=32", "data.workers=0", "data.batch_size=6"]
    cfg = small("model.model_name=test_vit", *words)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Glyph")
        launch(cfg, tmp_path / "run")
        with pytest.raises(SystemExit, match="0"):
            run_command(lambda: eval_command.main([str(tmp_path / "run")]))
    assert "not drawn" not in capsys.readouterr().err
    assert (
        json.loads((tmp_path / "run/eval/eval.json").read_text())["crop_pct"] == 0.95
    )  # of each side, as in timm
    assert (tmp_path / "run/predictions.png").exists() and (tmp_path / "run/eval/confusion.png").exists()
    table = (tmp_path / "run/eval/classes.csv").open(newline="", encoding="utf-8", errors="surrogateescape")
    with table:
        assert sorted(row["class"] for row in csv.DictReader(table)) == sorted(NAMES)


def test_a_figure_that_cannot_be_drawn_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_):
        raise RuntimeError("no font")

    for place in (
        (report, "curves"),
        (classification, "prediction_sheet"),
        (classification, "confusion_picture"),
    ):
        monkeypatch.setattr(*place, broken)
    launch(small(), tmp_path)
    assert eval_command.main([str(tmp_path)]) == 0
    said = capsys.readouterr().err
    for name in ("curves.png", "predictions.png", "confusion.png"):
        assert f"{name} is not drawn (RuntimeError: no font)" in said
    assert (
        json.loads((tmp_path / "metrics.json").read_text())["test"] and (tmp_path / "eval/eval.json").exists()
    )
