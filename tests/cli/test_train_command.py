"""``python train.py`` as a user types it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from vimzoo.engine.cli import main

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
QUICK = ["run.epochs=1", "run.limit_batches=2", "data.batch_size=16", "run.device=cpu"]


@pytest.fixture
def call(tmp_path, monkeypatch, capfd):
    """Call the command in an empty folder; gives (exit status, stdout, stderr)."""

    def run(*words: str) -> tuple[object, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        GlobalHydra.instance().clear()
        status: object = 0
        try:
            main()
        except SystemExit as stop:
            status = stop.code
        finally:
            GlobalHydra.instance().clear()
        return status, *capfd.readouterr()

    return run


def test_the_script_trains_and_ends_with_the_accuracy(tmp_path):
    words = [sys.executable, str(TRAIN), *QUICK]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"test accuracy \d+\.\d %", lines[-1])
    assert sum(line.startswith("epoch ") for line in lines) == 1
    (folder,) = (tmp_path / "outputs").glob("*/*")
    assert (folder / "best.pt").is_file() and f"files in {folder.relative_to(tmp_path)}" in lines
    assert len(TRAIN.read_text().splitlines()) <= 40


def test_help_is_ours(call, tmp_path):
    status, text, _ = call("--help")
    assert status == 0 and "python train.py model=vim_tiny_patch16_224 data=folder data.root=DIR" in text
    for group in ("model: ", "data: ", "digits, folder", "aug: ", "optim: ", "sched: "):
        assert group in text
    assert (
        max(len(line) for line in text.splitlines() if not line.startswith(("model: ", "experiment: ")))
        <= 110
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optim.lrr=1", "Key 'lrr' is not in struct"),
        ("model=vim_tny", "Could not find 'model/vim_tny'"),
        ("nonsense", "nonsense"),
        ("run.amp=bf17", "error: run.amp=bf17: expected one of"),
        ("data=folder", "error: data.root is not set"),
        ("model=timm", "error: model.model_name is not set"),
    ],
)
def test_mistakes_create_nothing(call, tmp_path, word, message):
    status, _, errors = call(word)
    assert status not in (0, None)
    assert message in f"{errors} {status}"
    assert not list(tmp_path.rglob("*.*")) and not (tmp_path / "outputs").exists()
