"""How commands end: an interrupt at any moment, a reader that goes away."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from vimzoo import commands, restore
from vimzoo.engine import cli, launch
from vimzoo.restoration import read_picture

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


def started(words, folder):
    """A process as in a terminal; a job in the background ignores the signal."""
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def interrupted_when(ready, process, number=signal.SIGINT):
    """What a process has printed that gets a signal when ``ready()`` is true, and its status."""
    end = time.monotonic() + 120
    while not ready() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(number)
    # communicate() would leave out what a line that was read before has brought into the buffer
    return process.stdout.read(), process.stderr.read(), process.wait(timeout=60)


def folder_of_pictures(folder, count):
    folder.mkdir()
    values = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    for number, pixels in enumerate(values):
        Image.fromarray(pixels).save(folder / f"{number:03}.png")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_restoring_a_folder_that_is_interrupted_continues(number, tmp_path, capsys, monkeypatch):
    folder_of_pictures(tmp_path / "in", 400)
    words = ["in", "out", "--quiet"]
    _, said, status = interrupted_when(
        lambda: len(list(tmp_path.glob("out/*.png"))) > 2,
        started(["-m", "vimzoo.restore", *words], tmp_path),
        number,
    )
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    done = len(names) - 1
    assert names[0] == ".vimzoo-restore.json" and all(name.endswith(".png") for name in names[1:])
    assert said == f"interrupted: {done} restored, {400 - done} left; the same command continues\n"
    assert status == 128 + number and 2 < done < 400
    for path in (tmp_path / "out").glob("*.png"):
        assert read_picture(path).pixels.shape == (64, 64, 3)
    monkeypatch.chdir(tmp_path)
    assert restore.main(words) == 0
    assert f"{400 - done} restored, {done} skipped" in capsys.readouterr().out


def test_restoring_a_film_that_is_interrupted_continues(tmp_path, capsys, monkeypatch):
    av = pytest.importorskip("av", reason="needs the extra vimzoo[films]")
    with av.open(tmp_path / "in.mkv", "w") as container:
        stream = container.add_stream("ffv1", rate=25, width=32, height=32, pix_fmt="yuv420p")
        pixels = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
        for frame in (*(av.VideoFrame.from_ndarray(each) for each in pixels), None):
            container.mux(stream.encode(frame))
    words = ["in.mkv", "out.mkv", "--quiet"]
    parts = tmp_path / ".out.mkv.parts"
    _, said, status = interrupted_when(
        lambda: any(parts.glob("*-*.mkv")), started(["-m", "vimzoo.restore", *words], tmp_path)
    )
    found = re.fullmatch(r"interrupted: (\d+) frames restored; the same command continues\n", said)
    assert status == 130 and found, said
    assert not (tmp_path / "out.mkv").exists() and not list(parts.glob("*.open"))
    monkeypatch.chdir(tmp_path)
    assert restore.main(words) == 0
    assert f"200 frames restored, {found[1]} of them in an earlier run" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"in.mkv", "out.mkv"}


def test_predictions_that_are_interrupted(tmp_path):
    folder_of_pictures(tmp_path / "in", 600)
    words = ["-m", "vimzoo.predict", "in", "--model", "test_vim", "--batch", "1"]
    process = started(words, tmp_path)
    first = process.stdout.readline()
    rest, said, status = interrupted_when(lambda: True, process)
    found = re.fullmatch(r"interrupted: (\d+) of 600 predicted; the same command begins again\n", said)
    printed = len((first + rest).splitlines())
    assert status == 130 and found and printed - 1 <= int(found[1]) <= printed < 600


@pytest.mark.parametrize("words", [["-m", "vimzoo.predict", "none.jpg"], [str(TRAIN)]])
def test_an_interrupt_during_the_imports_is_quiet(words, tmp_path):
    process = started(words, tmp_path)
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
