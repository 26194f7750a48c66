"""Runs that earlier versions began go on, and their weights open; see data/README.md for how they were made."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file
from trainer_helpers import same_tensors

from vimzoo.engine import launch
from vimzoo.engine.build import build_data
from vimzoo.engine.checkpoints import checkpoint, lookup
from vimzoo.engine.finished import best_model, run_settings
from vimzoo.engine.processes.spawn import spawn
from vimzoo.engine.reports import report
from vimzoo.engine.running import work
from vimzoo.engine.tasks import classification

KEPT = Path(__file__).with_name("data")
LAST = {"file": "last.pt", "sharded": "last.dcp", "old": "last.pt"}
ROUNDING = 2e-4  # between processors; without the moments of the first four steps weights differ by 0.01


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classification, "prediction_sheet", lambda *_: None)
    monkeypatch.setattr(report, "curves", lambda *_: None)


def settings(name: str, **more: Any) -> dict[str, Any]:
    """The settings of a kept run, as the command line would find them."""
    return run_settings(KEPT / name) | {"resume": str(KEPT / name / LAST[name]), **more}


def difference(run: Path) -> float:
    """The largest difference of any exported weight from that of the run that was not interrupted."""
    whole, found = (load_file(folder / "model/model.safetensors") for folder in (KEPT / "whole", run))
    assert whole.keys() == found.keys()
    return max((whole[name] - found[name]).abs().max().item() for name in whole)


@pytest.mark.parametrize("name", LAST)
def test_a_kept_run_goes_on_to_the_same_weights(name: str, tmp_path: Path) -> None:
    """It stands after update 4 of 9, in the middle of an epoch."""
    launch(settings(name, devices=1), tmp_path / "out")
    assert difference(tmp_path / "out") < ROUNDING
    assert yaml.safe_load((tmp_path / "out/config.yaml").read_text())["run"]["epochs"] == 3


def test_the_comparison_notices_lost_moments(tmp_path: Path) -> None:
    content = checkpoint.read(KEPT / "file/last.pt")
    for moments in content["optimizer"]["state"].values():
        moments["exp_avg"].zero_()
    checkpoint.write(content, tmp_path / "last.pt")
    launch(settings("file", resume=str(tmp_path / "last.pt")), tmp_path / "out")
    assert difference(tmp_path / "out") > 10 * ROUNDING


def in_two(cfg: dict[str, Any], out: Path, overrides: Any, world: Any) -> float:
    """What each of two processes does."""
    classification.prediction_sheet = report.curves = lambda *_: None  # type: ignore[assignment]
    for name in LAST:
        work({**settings(name), "devices": 2, "run": cfg["run"]}, out / name, overrides, world)
    return 0.0


@pytest.mark.slow
def test_kept_runs_go_on_in_two_processes(tmp_path: Path) -> None:
    spawn(in_two, settings("sharded"), tmp_path, [])
    assert all(difference(tmp_path / name) < ROUNDING for name in LAST)


@pytest.mark.parametrize("name", ["file", "sharded"])
def test_a_kept_best_checkpoint_is_opened_by_its_run_folder(name: str) -> None:
    cfg = run_settings(KEPT / name)
    model = best_model(KEPT / name, cfg, build_data(cfg))
    kept = torch.load(KEPT / name / "best.pt", weights_only=True)
    assert same_tensors(dict(model.state_dict()), dict(kept.get("model_ema", kept["model"])))
    assert lookup.wanted(str(KEPT / name), KEPT) == KEPT / name / LAST[name]


def test_kept_weights_are_opened_by_timm(tmp_path: Path) -> None:
    folder = shutil.copytree(KEPT / "whole/model", tmp_path / "model")
    exported = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert exported.pretrained_cfg["label_names"] == [str(digit) for digit in range(10)]
    assert same_tensors(dict(exported.state_dict()), load_file(folder / "model.safetensors"))
    options = {"depth": 1, "embed_dim": 8, "in_chans": 1, "num_classes": 10}
    for name in ("file/best.pt", "file/last.pt", "old/last.pt", "sharded/best.pt"):
        timm.create_model("test_vim", checkpoint_path=str(KEPT / name), **options)
