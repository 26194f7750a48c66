"""Processes that launchers start: each is told who it is by other variables."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from vimzoo.engine.processes import cluster, parallel
from vimzoo.engine.processes.cluster import Process, find, first_host, launched
from vimzoo.errors import UsageError

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
QUICK = [
    "model=timm", "model.model_name=test_resnet", "data.img_size=8", "data.batch_size=32", "data.workers=0",
    "run.device=cpu", "run.limit_batches=3", "run.epochs=2",
]  # fmt: skip
JOB = {"SLURM_JOB_ID": "71", "SLURM_NTASKS": "8", "SLURM_JOB_NODELIST": "gpu[03-06],login"}
STEP = JOB | {"SLURM_STEP_ID": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}
LAUNCHERS = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "MASTER_",
    "SLURM_",
    "SUBMITIT_",
    "OMPI_",
    "PMI_",
    "TORCHELASTIC_",
)


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def clean_env(**variables: str) -> dict[str, str]:
    """This process's environment without a launcher's variables, and with these."""
    return {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)} | variables


def started_by_srun(folder: Path, *command: str) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of the same command as two tasks of ``srun``."""
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    step = {**STEP, **meet, "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
    tasks = []
    for rank in "01":
        env = clean_env(**{**step, "SLURM_PROCID": rank, "SLURM_LOCALID": rank})
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        tasks.append(subprocess.Popen([sys.executable, *command], cwd=folder, env=env, text=True, **pipes))
    outputs = [task.communicate(timeout=600) for task in tasks]
    return [(task.returncode, *output) for task, output in zip(tasks, outputs, strict=True)]


def test_tasks_of_srun_find_each_other() -> None:
    found = find(STEP)
    assert found == Process("srun", 5, 8, 1, "gpu03", found.port) and found.port in cluster.PORTS
    assert find({**STEP, "SLURM_PROCID": "0"}).port == found.port
    assert find({**STEP, "SLURM_STEP_ID": "3"}).port != found.port
    assert find({**STEP, "SLURM_JOB_ID": "72"}).port != found.port
    step = {**STEP, "SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_NODELIST": "cpu1,gpu[03-06]"}
    assert find(step) == Process("srun", 5, 6, 1, "cpu1", found.port)  # of the step, not of the job
    chosen = find({**step, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4711"})
    assert (chosen.address, chosen.port) == ("10.0.0.1", 4711)
    assert find({**step, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) is None


@pytest.mark.parametrize("step", [{}, {"SLURM_STEP_ID": "4294967290"}, {"SLURM_STEP_ID": "-5"}])
def test_a_batch_script_waits_for_nobody(
    step: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It and an interactive shell see the job's eight tasks."""
    env = {**JOB, **step, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    assert find(env) is None
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with launched() as world:
        assert world.size == 1
    assert "SLURM's job has 8 tasks, but this process was not started by srun" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("localhost", "localhost"),
        ("a[1-3],b", "a1"),
        ("n[007,9-12]-ib,m", "n007-ib"),
        ("r[1-2]c[03-04]", "r1c03"),
    ],
)
def test_the_first_host(nodes: Any, host: Any) -> None:
    assert first_host(nodes) == host


def test_other_launchers() -> None:
    meet = {"MASTER_ADDR": "host", "MASTER_PORT": "29500"}
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", **meet}
    assert find({**STEP, **torchrun}) == Process("torchrun", 3, 4, 1, "host", 29500)
    assert find({**torchrun, "RANK": "0", "WORLD_SIZE": "1"}).size == 1
    local = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_NTASKS": "2", "SUBMITIT_LOCAL_JOB_ID": "9"}
    found = find({**local, "SUBMITIT_LOCAL_GLOBALID": "1", "SUBMITIT_LOCAL_LOCALID": "1"})
    assert found == Process("submitit", 1, 2, 1, "localhost", found.port)
    mpi = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
    assert find({**mpi, **meet}) == Process("mpirun (Open MPI)", 1, 2, 0, "host", 29500)
    # mpirun has started one daemon on each of eight machines by srun, and sixteen processes by these
    assert find({**STEP, "SLURM_STEP_NUM_TASKS": "8", "PMI_RANK": "9", "PMI_SIZE": "16", **meet}).rank == 9
    by_srun = {"SLURM_STEP_NUM_TASKS": "8", "PMI_RANK": "5", "PMI_SIZE": "8"}
    assert find({**STEP, **by_srun}).launcher == "srun"
    assert find({"PMI_RANK": "0", "PMI_SIZE": "1"}) is None


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"RANK": "1"}, "RANK=1 is set without WORLD_SIZE, MASTER_ADDR, MASTER_PORT; torchrun sets them all"),
        (
            {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"},
            r"OMPI_COMM_WORLD_RANK=1 is set without MASTER_ADDR, MASTER_PORT; mpirun \(Open MPI\) started several",
        ),
        (
            {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"},
            "SLURM_PROCID=None is set without SLURM_PROCID, MASTER_ADDR",
        ),
    ],
)
def test_what_a_launcher_did_not_say(env: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find(env)


def test_a_process_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.os, "environ", {**STEP, "SLURM_PROCID": "0", "MASTER_ADDR": "localhost"})
    message = (
        r"process 0 of 8, started by srun: could not meet the others at localhost:\d+ "
        r"\(processes 1, 2, 3, 4, 5, 6, 7 of 8 did not begin within 1 s\); expected all 8"
    )
    with pytest.raises(UsageError, match=message), launched(0.02):
        pass


def test_meeting_writes_nothing_to_stdout(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some versions of gloo report their connections there, from C++."""
    join = dist.init_process_group

    def reporting(*args, **kwargs):
        os.write(1, b"connected\n")
        join(*args, **kwargs)

    monkeypatch.setattr(dist, "init_process_group", reporting)
    with parallel.joined(0, 1, 0, f"file://{tmp_path / 'meeting'}"):
        print("result")
    output, errors = capfd.readouterr()
    assert output == "result\n" and errors.startswith("connected\n")


def test_two_tasks_of_srun_meet(tmp_path: Path) -> None:
    program = "from vimzoo.engine.processes.cluster import launched\n"
    program += "with launched() as world: print(world.gather(world.rank))"
    assert [output for _, output, _ in started_by_srun(tmp_path, "-c", program)] == ["[0, 1]\n"] * 2


@pytest.mark.slow
def test_two_tasks_of_srun_train_one_model(tmp_path: Path) -> None:
    (first, said, errors), (second, nothing, _) = started_by_srun(
        tmp_path, str(TRAIN), *QUICK, "hydra.run.dir=run"
    )
    assert (first, second) == (0, 0), errors
    assert json.loads((tmp_path / "run/about.json").read_text())["machine"]["processes"] == 2
    assert "epoch 2/2" in said and "epoch" not in nothing
