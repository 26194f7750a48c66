"""``--devices``: one process per device shares the work; a worker or the whole command may be killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import timm
import torch
from PIL import Image

from vimzoo import predict, restore
from vimzoo.compat import mambair

PICTURES = 120
RESTORE = ["pictures", "restored", "--checkpoint", "x2.pth", "--quiet"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(PICTURES):
        pixels = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number:03}.png")
    weights = mambair.official_state_dict(timm.create_model("test_mambair"))
    torch.save({"params": weights}, tmp_path / "x2.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def begun(module: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", module, *words, "--devices", "cpu,cpu"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload]


def results(folder: Path) -> list[Path]:
    return sorted((folder / "restored").glob("[!.]*"))


def until_some_exist(folder: Path, running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while len(results(folder)) < 4:
        assert running.poll() is None and time.monotonic() < deadline, running.communicate()
        time.sleep(0.01)


def workers(running: subprocess.Popen[str]) -> Iterator[tuple[str, psutil.Process]]:
    for child in psutil.Process(running.pid).children():
        yield child.environ()["RANK"], child


def test_a_killed_worker_loses_no_picture(place: Path) -> None:
    running = begun("vimzoo.restore", *RESTORE)
    until_some_exist(place, running)
    dict(workers(running))["1"].kill()
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0 and out == f"{PICTURES} restored\n"
    assert "process 1 was ended by SIGKILL; its work is missing; process 0 repeats" in err
    assert len(results(place)) == PICTURES and all(
        Image.open(path).size == (96, 96) for path in results(place)
    )


def test_the_same_command_continues_after_a_kill(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of all processes at once; what exists is whole."""
    running = begun("vimzoo.restore", *RESTORE)
    until_some_exist(place, running)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate(timeout=60)
    before = {path: path.stat().st_mtime_ns for path in results(place)}
    assert 4 <= len(before) < PICTURES
    assert all(np.asarray(Image.open(path)).shape == (96, 96, 3) for path in before)
    assert restore.main(RESTORE) == 0
    said = f"{PICTURES - len(before)} restored, {len(before)} skipped"
    assert capsys.readouterr().out.startswith(said)
    assert {path: path.stat().st_mtime_ns for path in before} == before and len(results(place)) == PICTURES


def test_predictions_come_once_and_in_order(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit").state_dict(), "vit.pth")
    words = ["pictures", "--model", "test_vit", "--checkpoint", "vit.pth", "--batch", "4", "--json"]
    assert predict.main([*words, "--device", "cpu"]) == 0
    alone = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    out, err = begun("vimzoo.predict", *words).communicate(timeout=120)
    assert [json.loads(line) for line in out.splitlines()] == alone, err
    assert len(alone) == PICTURES


def test_devices_are_named(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (["--devices", "cpu,"], ["--devices", "cpu", "--device", "cpu"]):
        with pytest.raises(SystemExit) as end:
            restore.main([*RESTORE, *words])
        assert end.value.code == 2
    assert "expected devices separated by commas" in capsys.readouterr().err
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "localhost",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "0")
    assert restore.main([*RESTORE, "--devices", "cpu"]) == 2
    assert "expected a device for each process" in capsys.readouterr().err
