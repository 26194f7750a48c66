"""FSDP2 under rollback, half precision and damage, in two processes; see test_scale.py for what else it does."""

import contextlib
import functools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import state_dict_saver
from trainer_helpers import same_tensors, small

from vimzoo.engine import launch
from vimzoo.engine import loop as loop_module
from vimzoo.engine.checkpoints import checkpoint
from vimzoo.engine.processes.spawn import spawn
from vimzoo.engine.reports import report
from vimzoo.engine.running import work
from vimzoo.engine.tasks import classification

pytestmark = pytest.mark.slow
WORDS = ["model.model_name=test_vit", "data.img_size=16", "run.epochs=2", "devices=2", "run.parallel=fsdp"]
HALF = ["run.amp=fp16", "run.ema=null"]


@contextlib.contextmanager
def spoilt(*steps):
    """Make the loss of those steps, and so its gradient, not a number, in this process."""
    real = loop_module.backpropagate

    def backpropagate(state, images, targets):
        return real(state, images * float("nan") if state.step + 1 in steps else images, targets)

    loop_module.backpropagate = backpropagate
    yield
    loop_module.backpropagate = real


@contextlib.contextmanager
def overflowing():
    """Begin with a scale that makes half precision overflow a few times."""
    real = torch.amp.GradScaler
    torch.amp.GradScaler = functools.partial(real, init_scale=2.0**20)
    yield
    torch.amp.GradScaler = real


@contextlib.contextmanager
def slow_to_write():
    """Write the parts of a checkpoint half a second after the copy has been taken."""
    real = state_dict_saver.save
    state_dict_saver.save = lambda *args, **kwargs: (time.sleep(0.5), real(*args, **kwargs))[1]
    yield
    state_dict_saver.save = real


def all_kinds(_, out, overrides, world):
    """What both processes do: runs in folders of their names."""
    classification.prediction_sheet = report.curves = lambda *_: None

    def run(name, *words):
        work(small(*WORDS, *words), out / name, overrides, world)

    marks = torch.tensor([world.rank == 0, world.rank == 1, False])
    world.unite(marks)
    torch.save(marks, out / f"marks{world.rank}.pt")
    run("plain")
    run("statistics", "model.model_name=test_resnet")
    run("statistics_copied", "model.model_name=test_resnet", "run.parallel=ddp")
    run("rollback", "run.on_nonfinite=rollback")
    with spoilt(2):
        run("skipped", "run.on_nonfinite=skip")
        run("rolled_back", "run.on_nonfinite=rollback", "run.save_every.steps=1")
        run("rolled_to_the_beginning", "run.on_nonfinite=rollback")
    with spoilt(1, 2):
        run("begun_late", "run.on_nonfinite=skip")
    with slow_to_write():
        run("beside", "run.save_every.steps=5")
    run("beside_resumed", f"resume={out / 'beside/previous.dcp'}")
    with overflowing():
        run("half", *HALF)
        run("half_resumed", *HALF, f"resume={out / 'half/previous.dcp'}")
    return 0.0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    spawn(all_kinds, small(*WORDS), out, [])
    with pytest.MonkeyPatch.context() as patch, overflowing():
        patch.setattr(classification, "prediction_sheet", lambda *_: None)
        patch.setattr(report, "curves", lambda *_: None)
        launch(small(*WORDS, *HALF, "devices=1"), out / "half_alone")
    return out


def weights(folder):
    return load_file(folder / "model/model.safetensors")


def rest(folder, name="last.dcp"):
    return torch.load(folder / name / "progress.pt", weights_only=True)


def losses(folder):
    return [row["train_loss"] for row in json.loads((folder / "metrics.json").read_text())["epochs"]]


def test_marks_of_all_processes_are_united(runs: Path) -> None:
    """Of unreadable images, of which each process has met others."""
    assert all(torch.load(runs / f"marks{rank}.pt").tolist() == [True, True, False] for rank in (0, 1))


def test_running_statistics_are_averaged_beside_sharded_weights(runs: Path) -> None:
    """The order of sums differs, rounding in float32 over six steps."""
    sharded, copied = weights(runs / "statistics"), weights(runs / "statistics_copied")
    assert any(name.endswith("running_mean") for name in sharded)
    for name, value in copied.items():
        torch.testing.assert_close(sharded[name], value, rtol=1e-4, atol=1e-5)


def test_being_ready_to_roll_back_changes_nothing(runs: Path) -> None:
    """The checkpoint before the first step holds no moments; making some would count as a step."""
    assert losses(runs / "rollback") == losses(runs / "plain")
    assert same_tensors(weights(runs / "rollback"), weights(runs / "plain"))


@pytest.mark.parametrize(
    ("rolled", "skipped"), [("rolled_back", "skipped"), ("rolled_to_the_beginning", "begun_late")]
)
def test_rolling_back_leaves_out_what_it_should(rolled: Any, skipped: Any, runs: Path) -> None:
    """Back to the step before is leaving out one update; back to the beginning is leaving out the first two."""
    assert same_tensors(weights(runs / rolled), weights(runs / skipped))
    assert not same_tensors(weights(runs / rolled), weights(runs / "plain"))
    assert rest(runs / rolled)["step"] == rest(runs / "plain")["step"]


def test_what_is_saved_beside_training_is_of_the_moment(runs: Path) -> None:
    """Step 6, the last one, is taken while that of step 5 waits to be written; a run from there ends the same."""
    assert (rest(runs / "beside", "previous.dcp")["step"], rest(runs / "beside")["step"]) == (5, 6)
    assert same_tensors(weights(runs / "beside"), weights(runs / "plain"))
    assert same_tensors(weights(runs / "beside_resumed"), weights(runs / "plain"))


def test_half_precision_in_two_processes_is_that_in_one(runs: Path) -> None:
    """Rounding of half precision is 2^-11; the same steps overflow."""
    assert losses(runs / "half") == pytest.approx(losses(runs / "half_alone"), rel=2e-3)
    alone, together = checkpoint.read(runs / "half_alone/last.pt")["scaler"], rest(runs / "half")["scaler"]
    assert alone == together
    assert together["scale"] < 2.0**20 and together["_growth_tracker"] > 1  # it overflowed, and then learnt


def test_half_precision_resumes_bitwise(runs: Path) -> None:
    assert same_tensors(weights(runs / "half"), weights(runs / "half_resumed"))
    assert rest(runs / "half")["scaler"] == rest(runs / "half_resumed")["scaler"]


def test_one_changed_bit_falls_back(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(classification, "prediction_sheet", lambda *_: None)
    monkeypatch.setattr(report, "curves", lambda *_: None)
    shutil.copytree(runs / "plain", tmp_path / "damaged")
    part = tmp_path / "damaged/last.dcp/__1_0.distcp"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    resume = f"resume={tmp_path / 'damaged/last.dcp'}"
    launch(small(*WORDS, "devices=1", resume), tmp_path / "out")
    said = capsys.readouterr().err
    assert "the checksum of __1_0.distcp is wrong" in said and "previous.dcp, step 3" in said
