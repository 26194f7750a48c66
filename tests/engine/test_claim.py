"""A run folder belongs to one run."""

import errno
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from trainer_helpers import small

from vimzoo.engine import launch
from vimzoo.engine.checkpoints.lookup import Taken
from vimzoo.engine.processes import claim as claim_module
from vimzoo.engine.processes.claim import LOCK, MADE_ONCE, claimed
from vimzoo.engine.reports import report
from vimzoo.engine.tasks import classification
from vimzoo.errors import UsageError

HOLD = "import sys; from pathlib import Path; from vimzoo.engine.processes.claim import claimed\n"
HOLD += "with claimed(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(classification, "prediction_sheet", lambda *_: None)
    monkeypatch.setattr(report, "curves", lambda *_: None)


@pytest.fixture
def other(tmp_path):
    """Another process that holds the folder ``run``."""
    words = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_named_folder_is_refused_while_another_run_has_it(other: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for words in ((), ("resume=auto",)):
        with pytest.raises(UsageError, match=rf"run: another run writes there \(.*, process {other.pid}\)"):
            launch(small(*words), out)
    assert [path.name for path in out.iterdir()] == [LOCK]
    other.communicate()
    assert other.returncode == 0 and not out.exists()
    launch(small(), out)
    assert not (out / LOCK).exists()


def test_a_folder_that_nobody_named_gets_the_next_number(other: Any, tmp_path: Path) -> None:
    launch(small(), tmp_path / "run", named=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run_2"]
    assert (tmp_path / "run_2/last.pt").exists() and not (tmp_path / "run/last.pt").exists()
    launch(small(), tmp_path / "run_2", named=False)  # of a run that has ended
    assert (tmp_path / "run_2_2/last.pt").exists()


def test_a_killed_run_leaves_its_folder_free(other: Any, tmp_path: Path) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / "run" / LOCK).exists()
    with claimed(tmp_path / "run", "auto") as folder:
        assert folder == tmp_path / "run"


def test_without_locks_a_claim_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(claim_module.fcntl, "lockf", refuse)
    with claimed(tmp_path / "run") as folder:
        assert [path.name for path in folder.iterdir()] == [MADE_ONCE]
        gone = rf"another run writes there .*; if that run is gone, remove .*{MADE_ONCE}"
        with pytest.raises(Taken, match=gone), claimed(folder, "auto"):
            pass
        with claimed(folder, named=False) as second:
            assert second == Path(f"{folder}_2")
    assert not list(tmp_path.iterdir())


def test_without_locks_a_job_that_is_started_again_takes_its_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was killed has left it."""
    monkeypatch.setattr(claim_module, "fcntl", None)
    for name, value in {"SLURM_JOB_ID": "71", "ENVIRONMENT": "BATCH", "SLURM_RESTART_COUNT": "0"}.items():
        monkeypatch.setenv(name, value)
    launch(small(), tmp_path)
    with claimed(tmp_path, "auto"):
        left = (tmp_path / MADE_ONCE).read_bytes()
    (tmp_path / MADE_ONCE).write_bytes(left)

    def refused(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(
            Taken, match=r"another run writes there \([^\n]*, process \d+\); if that run is gone"
        ):
            launch(small("run.epochs=1"), tmp_path)

    refused()  # another step of the same start
    refused(SLURM_JOB_ID="72", SLURM_RESTART_COUNT="1")
    monkeypatch.setenv("SLURM_JOB_ID", "71")
    with pytest.raises(Taken):
        launch(small("optim.lr=1e-5"), tmp_path)
    launch(small(), tmp_path)
    assert not (tmp_path / MADE_ONCE).exists()


def test_a_claim_that_was_taken_away_meanwhile_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the file and locking it, its owner ends."""
    path, real, calls = tmp_path / LOCK, claim_module.fcntl.lockf, []

    def lockf(file, flags):
        calls.append(1)
        if len(calls) == 1:
            path.unlink()
        real(file, flags)

    monkeypatch.setattr(claim_module.fcntl, "lockf", lockf)
    with claimed(tmp_path):
        assert path.exists() and len(calls) == 2
