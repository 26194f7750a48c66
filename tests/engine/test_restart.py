"""Jobs that their launcher starts again: the same command, in the same folder."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_cluster import QUICK, TRAIN, clean_env, started_by_srun
from test_signals import before_step, send
from trainer_helpers import composed, same_tensors, small

from vimzoo.engine import Stopped, launch
from vimzoo.engine.checkpoints import checkpoint
from vimzoo.engine.checkpoints.restart import is_own
from vimzoo.engine.processes.job import job_name
from vimzoo.engine.processes.spawn import spawn
from vimzoo.engine.reports import report
from vimzoo.engine.running import work
from vimzoo.engine.tasks import classification
from vimzoo.errors import UsageError

AGAIN = {"SLURM_JOB_ID": "71", "SLURM_RESTART_COUNT": "1"}
TASK = {"SLURM_JOB_ID": "71", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "1"}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(classification, "prediction_sheet", lambda *_: None)
    monkeypatch.setattr(report, "curves", lambda *_: None)


@pytest.fixture
def variables(monkeypatch):
    def set_all(env):
        for name, value in env.items():
            monkeypatch.setenv(name, value)

    return set_all


def weights(folder):
    return checkpoint.read(folder / "last.pt")["model"]


def interrupted(folder, monkeypatch, *words):
    """A run that a signal has stopped after its second step of three."""
    with monkeypatch.context() as patch:
        before_step(patch, 2, lambda: send(signal.SIGTERM))
        with pytest.raises(Stopped):
            launch(small(*words), folder)


@pytest.fixture
def whole(tmp_path):
    """The weights of a run that nothing interrupts."""
    launch(small(), tmp_path / "whole")
    return weights(tmp_path / "whole")


@pytest.mark.parametrize("env", [AGAIN, TASK, {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_NTASKS": "1"}])
def test_the_same_command_goes_on(
    env: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: Any,
    whole: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    interrupted(tmp_path / "run", monkeypatch)
    variables(env)
    launch(small(), tmp_path / "run")
    assert "run/last.pt, from epoch 1, batch 3" in capsys.readouterr().out
    assert same_tensors(weights(tmp_path / "run"), whole)


def test_where_nothing_says_that_it_is_a_restart_a_run_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: Any
) -> None:
    out = tmp_path / "run"
    interrupted(out, monkeypatch)
    kept = weights(out)
    with pytest.raises(UsageError, match="holds a run already"):
        launch(small(), out)
    variables(AGAIN)
    for cfg, words in ((small("optim.lr=1e-5"), []), (small(), ["resume=null"])):
        with pytest.raises(UsageError, match="holds a run already"):
            launch(cfg, out, words)
    assert same_tensors(weights(out), kept)
    launch(small("optim.lr=1e-5"), out, named=False)
    assert (tmp_path / "run_2/last.pt").exists()
    assert is_own(small("run.accumulate=2"), out)  # what a run that was short of memory does


def test_a_run_that_began_from_another_goes_on_with_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: Any
) -> None:
    """The command still says resume=OTHER."""
    interrupted(tmp_path / "other", monkeypatch)
    words = [f"resume={tmp_path / 'other'}", "run.epochs=2"]
    before_step(monkeypatch, 5, lambda: send(signal.SIGTERM))
    with pytest.raises(Stopped):
        launch(small(*words), tmp_path / "run")
    with pytest.raises(UsageError, match="holds a run already"):
        launch(small(*words), tmp_path / "run")
    variables(AGAIN)
    for stranger in (small("run.epochs=2", "resume=elsewhere"), small(words[0])):
        assert not is_own(stranger, tmp_path / "run")
    launch(small(*words), tmp_path / "run")
    assert checkpoint.read(tmp_path / "run/last.pt")["step"] == 6


def test_a_finished_run_is_finished_again_only_by_a_restart(tmp_path: Path, variables: Any) -> None:
    launch(small(), tmp_path)
    assert not is_own(small(), tmp_path, TASK)
    assert is_own(small(), tmp_path, TASK | AGAIN)
    assert not is_own(
        small(), tmp_path, {**TASK, "SLURM_RESTART_COUNT": "0", "TORCHELASTIC_RESTART_COUNT": "0"}
    )
    variables(AGAIN)
    launch(small(), tmp_path)


def test_names_of_jobs() -> None:
    """The same each time that the launcher starts the job; other processes keep the date."""
    batch = {"SLURM_JOB_ID": "71", "ENVIRONMENT": "BATCH"}
    torchrun = {"TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_RUN_ID": "a/b"}
    assert job_name(batch) == job_name({**batch, **torchrun}) == "slurm/71"
    assert job_name({"SLURM_JOB_ID": "71"}) is None  # an interactive shell
    assert job_name(torchrun) == "torchrun/a_b"
    assert job_name({**torchrun, "TORCHELASTIC_RUN_ID": "none"}).endswith(f"-{os.getppid()}")
    assert job_name({**torchrun, "TORCHELASTIC_MAX_RESTARTS": "0"}) is None


@pytest.fixture
def handler():
    """Install a launcher's handler; all are as before at the end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)}
    yield signal.signal
    for number, action in before.items():
        signal.signal(number, action)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_the_launchers_handler_follows_the_save(
    number: int,
    handler: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    saved = []

    def requeue(number, frame):
        saved.append(checkpoint.read(tmp_path / "last.pt")["step"])
        raise SystemExit(144)

    handler(number, requeue)
    before_step(monkeypatch, 2, lambda: send(number))
    with pytest.raises(SystemExit) as ended:
        launch(small(), tmp_path)
    assert ended.value.code == 144 and saved == [2]
    assert f"stopped by {signal.Signals(number).name} after step 2" in capsys.readouterr().err


def test_a_handler_that_returns_lets_the_run_go_on(
    handler: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Any
) -> None:
    """As submitit's for SIGTERM does."""
    heard = []
    handler(signal.SIGTERM, lambda number, frame: heard.append(number))
    before_step(monkeypatch, 2, lambda: send(signal.SIGTERM))
    launch(small(), tmp_path / "run")
    assert heard == [signal.SIGTERM]
    assert same_tensors(weights(tmp_path / "run"), whole)


def test_a_second_signal_is_not_lost(handler: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGUSR2 comes while SIGTERM is answered, as in a preemption."""
    heard = []
    handler(signal.SIGTERM, lambda number, frame: heard.append(number))
    handler(signal.SIGUSR2, lambda number, frame: heard.append(number))
    before_step(monkeypatch, 3, lambda: send(signal.SIGUSR2, signal.SIGTERM) if not heard else None)
    launch(small(), tmp_path)
    assert set(heard) == {signal.SIGUSR2, signal.SIGTERM}


KILLED_ONCE = """
import os, pathlib, signal
from vimzoo.engine import loop
from vimzoo.engine.cli import main

step, rank = loop.train_step, os.environ.get("RANK") or os.environ["SLURM_PROCID"]
mark = pathlib.Path(f"killed{rank}")

def killed_once(state, *batch):
    if state.step == 4 and rank in os.environ["KILLED"] and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return step(state, *batch)

loop.train_step = killed_once
main()
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The weights of a run of two processes that nothing interrupts."""
    folder = tmp_path_factory.mktemp("two")
    spawn(work, composed(*QUICK, "devices=2"), folder, [])
    return weights(folder)


@pytest.mark.slow
def test_torchrun_starts_a_killed_worker_again(two: Any, tmp_path: Path) -> None:
    """In the folder that the first start made, which nobody named."""
    (tmp_path / "train.py").write_text(KILLED_ONCE)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["--max-restarts=1", "train.py", *QUICK]
    done = subprocess.run(
        command, cwd=tmp_path, env=clean_env(KILLED="1"), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0 and (tmp_path / "killed1").exists(), done.stderr
    (folder,) = (tmp_path / "outputs").glob("*/*")
    assert "from epoch 2, step 4 on" in done.stdout and same_tensors(weights(folder), two)


@pytest.mark.slow
def test_a_killed_job_of_srun_goes_on(two: Any, tmp_path: Path) -> None:
    """Both tasks are killed; the same command, in another job, finishes the run."""
    (tmp_path / "train.py").write_text(KILLED_ONCE)
    command = ["train.py", *QUICK, "hydra.run.dir=run"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KILLED", "01")
        first, second = started_by_srun(tmp_path, *command), started_by_srun(tmp_path, *command)
    assert -signal.SIGKILL in [status for status, *_ in first]
    assert [status for status, *_ in second] == [0, 0], second
    assert same_tensors(weights(tmp_path / "run"), two)


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["devices=2"], ["hydra.launcher.tasks_per_node=2"]])
def test_submitit_queues_a_preempted_job_again(words: list[str], tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    long = [*QUICK, "run.epochs=40"]
    processes = 2 if words else 1
    cfg = composed(*long, f"devices={processes}")
    launch(cfg, tmp_path / "whole")
    command = [sys.executable, str(TRAIN), "-m", "hydra/launcher=submitit_local", *long, *words]
    command += ["hydra.launcher.timeout_min=5", "hydra.sweep.dir=sweep"]
    run = subprocess.Popen(command, cwd=tmp_path, env=clean_env(), stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "sweep/0"
    while not (folder / "metrics.csv").exists():
        assert run.poll() is None
        time.sleep(0.05)
    os.kill(int((folder / "run.lock").read_text().split()[-1]), signal.SIGUSR2)
    _, errors = run.communicate(timeout=600)
    assert run.returncode == 0, errors
    (log,) = (tmp_path / "sweep/.submitit").rglob("*_0_log.out")
    assert "resume sweep/0/last.pt" in log.read_text()
    assert json.loads((folder / "about.json").read_text())["machine"]["processes"] == processes
    assert same_tensors(weights(folder), weights(tmp_path / "whole"))
