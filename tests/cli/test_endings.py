"""How commands end: an interrupt at any moment, a reader that goes away."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from vimzoo import commands
from vimzoo.engine import cli, launch

TRAIN = Path(__file__).resolve().parents[2] / "train.py"


def interrupted():
    raise KeyboardInterrupt


def test_a_command_that_is_interrupted(capsys):
    with pytest.raises(SystemExit) as stop:
        commands.run_command(interrupted)
    assert stop.value.code == 130 and capsys.readouterr().err == "interrupted\n"
    with pytest.raises(SystemExit) as stop:
        commands.run_command(lambda: 2)
    assert stop.value.code == 2


def test_training_that_is_interrupted_before_it_can_be_saved(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(sys.modules["vimzoo.engine.running"], "build_data", lambda _: interrupted())
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 130 and capsys.readouterr().err == "interrupted\n"
    assert not list(tmp_path.iterdir()) and launch


@pytest.mark.parametrize("words", [["-m", "vimzoo.predict", "none.jpg"], [str(TRAIN)]])
def test_an_interrupt_during_the_imports_is_quiet(words, tmp_path):
    def as_in_a_terminal():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it

    process = subprocess.Popen(
        [sys.executable, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=as_in_a_terminal
    )
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 130) and "Traceback" not in said


def test_a_reader_that_goes_away_ends_a_command_quietly():
    program = "from vimzoo.commands import run_command\nrun_command(lambda: print('line\\n' * 100000))"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "line\n"
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(timeout=60) == 141


def test_a_slow_precision_is_said(capsys):
    for dtype, device in (
        (torch.float16, "cpu"),
        (torch.bfloat16, "cpu"),
        (None, "cpu"),
        (torch.float16, "cuda"),
    ):
        commands.slow_half(dtype, torch.device(device), "run.amp")
    assert (
        capsys.readouterr().err
        == "warning: run.amp=fp16 is several times slower on a CPU than bf16 or none\n"
    )
