"""Loader processes: they stay from epoch to epoch, outlive signals for a while, and end with the run."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset
from trainer_helpers import calling, small

from vimzoo.data import closing, eval_loader
from vimzoo.data.batches import loader
from vimzoo.engine import Stopped, launch
from vimzoo.engine import loop as loop_module
from vimzoo.engine.reports import report
from vimzoo.engine.tasks import classification


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(classification, "prediction_sheet", lambda *_: None)
    monkeypatch.setattr(report, "curves", lambda *_: None)


class Processes(Dataset):
    """Gives the number of the process that reads."""

    def __len__(self):
        return 4

    def __getitem__(self, _):
        return os.getpid()


def test_a_run_ends_its_loader_processes(images: Path, tmp_path: Path) -> None:
    words = ["data=folder", f"data.root={images}", "data.img_size=32", "data.workers=2", "data.batch_size=8"]
    launch(small(*words, "model.model_name=test_vit", "run.epochs=2"), tmp_path / "run")
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_so_does_a_run_that_fails_or_is_stopped(
    workers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"data.workers={workers}"]
    monkeypatch.setattr(loop_module, "train_step", calling(2, lambda: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        launch(small(*words), tmp_path / "failed")
    stop = calling(2, lambda: os.kill(os.getpid(), signal.SIGTERM), loop_module.backpropagate)
    monkeypatch.undo()
    monkeypatch.setattr(loop_module, "backpropagate", stop)
    with pytest.raises(Stopped):
        launch(small(*words), tmp_path / "stopped")
    assert not multiprocessing.active_children()


def test_processes_that_evaluate_stay_for_the_next_epoch() -> None:
    """Where they are spawned, each start would import torch anew."""
    torch.manual_seed(0)
    images = eval_loader(Processes(), 2, workers=1)
    with closing(images):
        first, second = ({int(pid) for batch in images for pid in batch} for _ in range(2))
        assert first == second and os.getpid() not in first
    assert not multiprocessing.active_children()
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))  # each pass leaves torch's random numbers as they were


def test_a_loader_process_outlives_sigterm_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "LAST_SECONDS", 1)
    images = eval_loader(Processes(), 1, workers=1)
    with closing(images):
        (pid,) = next(iter(images)).tolist()
        (process,) = multiprocessing.active_children()
        begin = time.monotonic()
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
            os.kill(pid, number)
        process.join(timeout=30)
        assert time.monotonic() - begin > 0.9 and process.exitcode == 0
