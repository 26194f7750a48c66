"""Folders of 10,000 pictures over a local cluster of Ray with two workers, one of which is killed."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import timm
import torch
from PIL import Image

from vimzoo import predict, restore
from vimzoo.compat import mambair

pytest.importorskip("ray.data")

PICTURES = 10_000
GROWTH = 1.25
"""How much more memory a process may hold at the end than after a quarter of the work."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        path = folder / "small" / f"{number % 100:02}" / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    (folder / "small" / "notes.txt").write_text("no picture")
    (folder / "small" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    torch.manual_seed(0)
    torch.save({"params": mambair.official_state_dict(timm.create_model("test_mambair"))}, folder / "x2.pth")
    torch.save(timm.create_model("test_vit").state_dict(), folder / "vit.pth")
    return folder


@pytest.fixture
def command(place: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command with two workers; what still runs after the test is ended."""
    begun: list[subprocess.Popen[str]] = []

    def start(module: str, *words: str) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-m", module, *words, "--engine", "ray", "--workers", "2"]
        pipe = subprocess.PIPE
        begun.append(subprocess.Popen(arguments, cwd=place, text=True, stdout=pipe, stderr=pipe))
        return begun[-1]

    yield start
    for running in begun:
        if running.poll() is None:
            running.terminate()
            running.communicate(timeout=60)


def workers(running: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(running.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended
            if "MapWorker" in "".join(child.cmdline()):
                found.append(child)
    return found


def until(running: subprocess.Popen[str], enough: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 400
    while not enough():
        assert running.poll() is None and time.monotonic() < deadline, running.communicate()
        time.sleep(0.05)


def watched(running: subprocess.Popen[str], done: Callable[[], float]) -> dict[int, list[tuple[float, int]]]:
    """The resident bytes of the command and its workers, and the share of the work, over time."""
    sizes: dict[int, list[tuple[float, int]]] = {}
    while running.poll() is None:
        share = done()
        for process in [psutil.Process(running.pid), *workers(running)]:
            with contextlib.suppress(psutil.Error):
                sizes.setdefault(process.pid, []).append((share, process.memory_info().rss))
        time.sleep(0.5)
    return sizes


def test_ray_restores_all_though_a_worker_is_killed(place: Path, command: Any) -> None:
    """By URL; in flat memory; the same command continues, and refuses the results of another model."""
    words = [f"file://{place}/small", f"file://{place}/out", "--checkpoint", "x2.pth"]

    def results() -> list[Path]:
        return list((place / "out").glob("*/*.png"))

    running = command("vimzoo.restore", *words, "--quiet")
    until(running, lambda: len(results()) > 500)
    victim = workers(running)[0]
    victim.kill()
    sizes = watched(running, lambda: len(results()) / PICTURES)
    out, err = running.communicate()
    assert running.returncode == 1 and out.endswith(f"{PICTURES} restored, 1 failed\n"), (
        err
    )  # Ray names the victim
    assert "failed: torn.png: damaged" in err and "left out: 1 files" in err
    names = {path.relative_to(place / "out") for path in results()}
    assert names == {path.relative_to(place / "small") for path in (place / "small").glob("*/*.png")}
    assert all(Image.open(path).size == (16, 16) for path in results()[::100])
    for measured in sizes.values():
        late = [size for share, size in measured if share > 0.25]
        if len(late) > 4:
            assert late[-1] < GROWTH * late[0], measured
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert restore.main(["small/07/00007.png", "alone.png", "--checkpoint", "x2.pth", "--quiet"]) == 0
    alone, shared = (np.asarray(Image.open(place / n)) for n in ("alone.png", "out/07/00007.png"))
    assert np.array_equal(alone, shared)

    for path in results()[:5]:
        path.unlink()
    out, err = command("vimzoo.restore", *words, "--quiet").communicate(timeout=300)
    assert (
        out == f"5 restored, {PICTURES - 5} skipped, as the results exist (--existing overwrite), 1 failed\n"
    )
    done = command("vimzoo.restore", *words, "--self-ensemble")
    assert "were made with other self_ensemble" in done.communicate(timeout=300)[1] and done.returncode == 2


def test_ray_predicts_each_image_once_though_the_command_is_stopped(place: Path, command: Any) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    words = ["small", "--model", "test_vit", "--checkpoint", "vit.pth", "--output", f"file://{place}/found"]
    running = command("vimzoo.predict", *words)
    until(running, lambda: len(list((place / "found").glob("*.parquet"))) >= 3)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=120)
    before = {path: path.stat().st_mtime_ns for path in (place / "found").glob("*.parquet")}
    kept = sum(parquet.read_metadata(path).num_rows for path in before)
    assert 0 < kept < PICTURES

    running = command("vimzoo.predict", *words)
    until(running, lambda: len(list((place / "found").glob("*.parquet"))) >= len(before) + 2)
    workers(running)[0].kill()
    out, err = running.communicate(timeout=400)
    assert f"skipped, as they are in file://{place}/found" in out, err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    table = parquet.read_table(place / "found").to_pylist()
    files = [row["file"] for row in table]
    assert len(files) == len(set(files)) == PICTURES + 1
    (torn,) = [row for row in table if row["error"]]
    assert torn["file"] == "torn.png" and not torn["classes"]

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        lines = subprocess.run(
            [sys.executable, "-m", "vimzoo.predict", "small/07", *words[1:5], "--json", "--device", "cpu"],
            capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip
    rows = {f"small/{row['file']}": row for row in table}
    for answer in map(json.loads, lines):
        found = rows[answer["file"]]["classes"]
        assert [pair["class"] for pair in found] == [pair["class"] for pair in answer["classes"]]
        assert [pair["probability"] for pair in found] == pytest.approx(
            [pair["probability"] for pair in answer["classes"]], rel=1e-4
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert predict.main([*words, "--engine", "ray", "--top", "2"]) == 2  # other predictions
