"""Signals as launchers and people send them: repeated, to every process, at the worst moment."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trainer_helpers import small

from vimzoo.engine import Stopped, launch
from vimzoo.engine import loop as loop_module
from vimzoo.engine.checkpoints import checkpoint, saver
from vimzoo.engine.processes.parallel import World
from vimzoo.engine.processes.spawn import spawn
from vimzoo.engine.reports import report
from vimzoo.engine.running import work
from vimzoo.engine.tasks import classification


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(classification, "prediction_sheet", lambda *_: None)
    monkeypatch.setattr(report, "curves", lambda *_: None)


def before_step(monkeypatch, number, action):
    """Call ``action`` before that step."""
    real = loop_module.train_step

    def step(state, *batch):
        if state.step + 1 == number:
            action()
        return real(state, *batch)

    monkeypatch.setattr(loop_module, "train_step", step)


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_repeated_signal_is_one_request(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_step(monkeypatch, 2, lambda: send(number, number, number))
    before = signal.getsignal(number)
    if before is signal.SIG_IGN:  # the suite may itself run under nohup
        signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(Stopped, match=rf"{number.name} after step 2"):
            launch(small(), tmp_path)
    finally:
        signal.signal(number, before)
    assert checkpoint.read(tmp_path / "last.pt")["step"] == 2


def test_under_nohup_a_closed_terminal_does_not_stop_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        before_step(monkeypatch, 2, lambda: send(signal.SIGHUP))
        launch(small(), tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert checkpoint.read(tmp_path / "last.pt")["step"] == 3


def test_ctrl_c_again_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saver, "AGAIN", 0.01)

    def twice() -> None:
        send(signal.SIGINT)
        for _ in range(10):  # a signal that another thread takes is handled here when a call returns
            time.sleep(0.01)
        send(signal.SIGINT)

    before_step(monkeypatch, 2, twice)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            launch(small(), tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "last.pt").exists()


def test_a_signal_between_two_votes_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes while the processes agree on whether one was heard; all hear it after the next step."""
    calls = []

    def largest(world, *values):
        calls.append(1)
        if len(calls) == 1:
            send(signal.SIGTERM)
        return list(values)

    monkeypatch.setattr(World, "largest", largest)
    with pytest.raises(Stopped, match="SIGTERM after step 2"):
        launch(small(), tmp_path)


@pytest.mark.slow
def test_a_signal_to_the_whole_job_leaves_time_to_save(tmp_path: Path) -> None:
    """Loader processes hear it too; torch raises when one of them ends, here amid a slow write."""
    program = (
        "import os, subprocess, time, pytest\n"
        "from test_signals import before_step, checkpoint, launch\n"
        "save = checkpoint.torch.save\n"
        "checkpoint.torch.save = lambda *args: (time.sleep(3), save(*args))\n"
        "kill = ['kill', '-TERM', '--', f'-{os.getpgrp()}']  # from outside: torch forgives a parent\n"
        "before_step(pytest.MonkeyPatch(), 2, lambda: subprocess.run(kill))\n"
        f"launch({small('data.workers=2')!r}, __import__('pathlib').Path({str(tmp_path)!r}))"
    )
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=here, start_new_session=True, capture_output=True, text=True
    )
    assert "SIGTERM after step 2" in done.stderr
    assert checkpoint.read(tmp_path / "last.pt")["step"] == 2


def slow_disk(cfg, out, overrides, world):
    """A signal, and a first process that needs a second to write what the second one need not wait for."""
    real = checkpoint.save
    checkpoint.save = lambda *args: (time.sleep(1), real(*args))
    if world.main:
        with pytest.MonkeyPatch.context() as patch:
            before_step(patch, 2, lambda: send(signal.SIGTERM))
            return work(cfg, out, overrides, world)
    return work(cfg, out, overrides, world)


@pytest.mark.slow
def test_no_process_ends_before_all_is_written(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="SIGTERM after step 2"):
        spawn(slow_disk, small("devices=2", "data.workers=1"), tmp_path, [])
    assert checkpoint.read(tmp_path / "last.pt")["step"] == 2
