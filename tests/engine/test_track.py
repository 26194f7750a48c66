"""TensorBoard and Weights & Biases get the numbers that metrics.csv has."""

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from trainer_helpers import small

from vimzoo.engine import launch
from vimzoo.engine.reports import report, track
from vimzoo.engine.tasks import classification
from vimzoo.errors import UsageError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(classification, "prediction_sheet", lambda *_: None)
    monkeypatch.setattr(report, "curves", lambda *_: None)
    monkeypatch.setattr(track.Tracker, "__init__", _every_step(track.Tracker.__init__))


def _every_step(init):
    return lambda self, *args: init(self, *args, **({} if len(args) > 2 else {"every": 1}))


def losses(out):
    return [float(row["train_loss"]) for row in csv.DictReader((out / "metrics.csv").open())]


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    launch(small("run.tracker=tensorboard", "run.epochs=2"), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.value for e in events.Scalars("epoch/train_loss")] == pytest.approx(losses(tmp_path))
    assert [e.step for e in events.Scalars("step/loss")] == [1, 2, 3, 4, 5, 6]
    assert {"step/lr", "step/grad_norm", "epoch/val_top1"} <= set(events.Tags()["scalars"])


def test_tensorboard_of_a_resumed_run_has_every_point_once(tmp_path: Path) -> None:
    """The first run's last points stay; what a stopped run wrote beyond its checkpoint is left out."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    launch(small("run.tracker=tensorboard"), tmp_path)
    launch(small("run.tracker=tensorboard", "run.epochs=2", "resume=auto"), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("step/loss")] == [1, 2, 3, 4, 5, 6]
    assert [e.value for e in events.Scalars("epoch/train_loss")] == pytest.approx(losses(tmp_path))


def test_tensorboard_in_another_folder_has_the_whole_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    launch(small("run.tracker=tensorboard"), tmp_path / "first")
    launch(
        small("run.tracker=tensorboard", "run.epochs=2", f"resume={tmp_path / 'first'}"), tmp_path / "second"
    )
    events = EventAccumulator(str(tmp_path / "second/tensorboard")).Reload()
    assert [e.step for e in events.Scalars("step/loss")] == [1, 2, 3, 4, 5, 6]


class FakeRun:
    """What `wandb.init` returns."""

    def __init__(self, **asked):
        self.id, self.asked, self.steps = asked.get("id") or "abc123", asked, []

    def log(self, numbers, step):
        self.steps.append(step)

    def finish(self):
        pass


def test_a_resumed_run_is_the_same_at_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    fake = SimpleNamespace(Error=RuntimeError, init=lambda **asked: runs.append(FakeRun(**asked)) or runs[-1])
    monkeypatch.setitem(sys.modules, "wandb", fake)
    words = ["run.tracker=wandb", "run.epochs=2", f"resume={tmp_path / 'first'}"]
    launch(small("run.tracker=wandb"), tmp_path / "first")
    launch(small(*words), tmp_path / "second")
    launch(small("run.tracker=wandb", "run.epochs=3", "resume=auto"), tmp_path / "second")
    assert "id" not in runs[0].asked and runs[0].steps[-1] == 3
    for run in runs[1:]:
        assert (run.asked["id"], run.asked["resume"]) == ("abc123", "allow") and run.steps[0] > 3


def test_wandb_offline_keeps_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    launch(small("run.tracker=wandb"), tmp_path)
    launch(small("run.tracker=wandb", "run.epochs=2", "optim.lr=1e-3", "resume=auto"), tmp_path)
    ids = {folder.name.rsplit("-", 1)[1] for folder in (tmp_path / "wandb").glob("offline-run-*")}
    assert ids == {(tmp_path / "wandb.id").read_text().strip()}


def test_wandb_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    launch(small("run.tracker=wandb"), tmp_path)
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb"))
    summary = run / "files/wandb-summary.json"
    if summary.exists():
        assert json.loads(summary.read_text())["epoch/train_loss"] == pytest.approx(losses(tmp_path)[-1])


def test_wandb_without_an_account_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")

    def refuse(**_):
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UsageError, match=r"run.tracker=wandb: No API key configured. WANDB_MODE=offline"):
        launch(small("run.tracker=wandb"), tmp_path)


def test_an_unknown_tracker_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"run.tracker=paper: expected null, tensorboard or wandb"):
        launch(small("run.tracker=paper"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_run_folder_explains_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", "run.seed=3", "data.root=my photos"])
    launch(small("run.limit_batches=1"), tmp_path)
    about = json.loads((tmp_path / "about.json").read_text())
    assert about["command"] == "train.py run.seed=3 'data.root=my photos'"
    assert len(about["git"].split(",")[0]) == 40 and set(about["versions"]) >= {"torch", "timm", "vimzoo"}
    assert about["machine"]["processes"] == 1 and about["first_step"] == 1
