"""Checkpoints within an epoch are written beside training: what they hold, and when."""

import os
import signal
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_helpers import calling, same_tensors, small

from vimzoo.engine import Stopped, launch
from vimzoo.engine import loop as loop_module
from vimzoo.engine.checkpoints import checkpoint
from vimzoo.engine.checkpoints.background import Beside, Copies
from vimzoo.engine.reports import report
from vimzoo.engine.tasks import classification


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(classification, "prediction_sheet", lambda *_: None)
    monkeypatch.setattr(report, "curves", lambda *_: None)


@pytest.fixture
def waiting_for(monkeypatch):
    """Writing a checkpoint beside training does not begin before the step of that number."""

    def install(number, action=lambda: None):
        event, write = threading.Event(), checkpoint.write

        def late(*args):
            if threading.current_thread() is not threading.main_thread():
                assert event.wait(60)
            write(*args)

        monkeypatch.setattr(checkpoint, "write", late)
        step = calling(number, lambda: (event.set(), action()))
        monkeypatch.setattr(loop_module, "train_step", step)

    return install


def stop():
    os.kill(os.getpid(), signal.SIGTERM)


def content(path):
    """A checkpoint but for the clock and the settings."""
    found = checkpoint.read(path)
    del found["config"], found["sums"]["seconds"]
    return found


def test_it_holds_the_step_that_it_was_asked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waiting_for: Any
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(loop_module, "train_step", calling(2, stop))
        with pytest.raises(Stopped):
            launch(small(), tmp_path / "stopped")
    waiting_for(3)
    launch(small("run.save_every.steps=2"), tmp_path / "beside")
    wanted = content(tmp_path / "stopped/last.pt")
    assert wanted["step"] == 2 and same_tensors(content(tmp_path / "beside/previous.pt"), wanted)
    assert content(tmp_path / "beside/last.pt")["step"] == 3


def test_a_signal_waits_for_the_save_under_way(tmp_path: Path, waiting_for: Any) -> None:
    waiting_for(2, stop)
    with pytest.raises(Stopped, match="after step 2"):
        launch(small("run.save_every.steps=1"), tmp_path)
    assert [checkpoint.read(tmp_path / name)["step"] for name in ("previous.pt", "last.pt")] == [1, 2]


def test_each_save_is_whole_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, steps, write = threading.Lock(), [], checkpoint.write

    def alone(content, *args):
        assert under_way.acquire(blocking=False)
        write(content, *args)
        steps.append(content["step"])
        under_way.release()

    monkeypatch.setattr(checkpoint, "write", alone)
    launch(small("run.save_every.steps=1", "run.epochs=2"), tmp_path)
    assert steps == [1, 2, 3, 3, 4, 5, 6, 6]


def test_a_failure_is_raised_by_the_next_that_asks() -> None:
    beside, done = Beside(), []
    beside.check()
    beside.start(lambda: done.append(1))
    beside.wait()
    beside.start(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        beside.start(lambda: done.append(2))
    beside.wait()  # it is told once
    assert done == [1]


def test_a_failure_does_not_hide_another_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], waiting_for: Any
) -> None:
    def fail():
        raise RuntimeError("the model is broken")

    def full(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(checkpoint, "write", full)
    waiting_for(2, fail)
    with pytest.raises(RuntimeError, match="the model is broken"):
        launch(small("run.save_every.steps=1"), tmp_path)
    assert "the disk is full" in capsys.readouterr().err


def test_copies_are_of_the_moment_and_use_their_memory_again() -> None:
    weights = OrderedDict(a=torch.ones(2, 3).t(), b=torch.tensor(1))
    weights._metadata = {"": {"version": 2}}
    value = {"model": weights, "history": [{"loss": 1.0}], "betas": (0.9, torch.ones(1))}
    copies = Copies()
    first = copies.of(value)
    weights["a"].zero_(), value["history"].append({})
    assert first["model"]["a"].tolist() == [[1, 1]] * 3 and first["history"] == [{"loss": 1.0}]
    assert first["model"]._metadata == weights._metadata and type(first["betas"]) is tuple
    place = first["model"]["a"].data_ptr()
    assert copies.of(value)["model"]["a"].data_ptr() == place and not first["model"]["a"].any()
