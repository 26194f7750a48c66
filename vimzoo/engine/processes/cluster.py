"""Processes started by a launcher: torchrun, SLURM's srun, submitit or mpirun."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from vimzoo.errors import UsageError, first_line

from .parallel import MINUTES, World, joined
from .watch import SAY_SO

REAL_STEPS = 0xFFFFFFF0  # SLURM numbers batch scripts and interactive shells from here on
PORTS = range(15000, 30000)  # below those that Linux gives to outgoing connections
ADDRESS, PORT = "MASTER_ADDR", "MASTER_PORT"

# What each launcher calls the rank, the number of processes, and the rank on this machine
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
SUBMITIT = ("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS", "SUBMITIT_LOCAL_LOCALID")
SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
MPI = {
    "mpirun (Open MPI)": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "mpirun": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
}


@dataclass(frozen=True)
class Process:
    """This process within a run; process 0 listens at ``address`` and ``port``."""

    launcher: str
    rank: int
    size: int
    local_rank: int
    address: str
    port: int

    def __str__(self) -> str:
        return f"process {self.rank} of {self.size}, started by {self.launcher}"


@contextlib.contextmanager
def launched(minutes: float | None = None) -> Iterator[World]:
    """Connect this process to the others that a launcher has started; without a launcher it is alone.

    Args:
        minutes: how long a process waits for the others before it gives up; None is `MINUTES`.

    Raises:
        UsageError: the launcher did not say how to find the others, or they did not come.
    """
    process = find(os.environ)
    if process is None:
        _hint(os.environ)
        yield World()
        return
    minutes, torchrun = minutes or MINUTES, process.launcher == "torchrun"
    # torchrun has a store of its own, which env:// finds
    meet = "env://" if torchrun else f"tcp://{process.address}:{process.port}"
    local_rank = process.local_rank
    if torch.cuda.is_available() and not torchrun:  # a task may see no GPU but its own
        local_rank %= torch.cuda.device_count()
    waiting = threading.Timer(SAY_SO, _say_waiting, [process])
    waiting.daemon = True
    waiting.start()
    with contextlib.ExitStack() as stack:
        try:
            world = stack.enter_context(joined(process.rank, process.size, local_rank, meet, minutes))
        except RuntimeError as error:  # torch's and gloo's, for a connection that fails or takes too long
            raise UsageError(
                f"{process}: could not meet the others at {process.address}:{process.port} ({first_line(error)}); "
                f"expected all {process.size} processes to run within run.timeout={minutes:g} minutes, and "
                f"{ADDRESS}, {PORT} to be where process 0 can listen and every machine can connect"
            ) from error
        finally:
            waiting.cancel()
        yield world


def by_launcher(env: Mapping[str, str]) -> bool:
    """Whether a launcher, and not a person in a shell, started this process (even if it is alone)."""
    step = _is_task(env) and "SLURM_PTY_PORT" not in env
    return step or "RANK" in env or "SUBMITIT_EXECUTOR" in env


def find(env: Mapping[str, str]) -> Process | None:
    """This process as described by the launcher's variables; None if it is a run of its own.

    Raises:
        UsageError: there are several processes, but not how to find the others.
    """
    if "RANK" in env:
        return _process("torchrun", TORCHRUN, env)
    if env.get("SUBMITIT_EXECUTOR") == "local":
        return _several("submitit", SUBMITIT, env, "localhost", env.get("SUBMITIT_LOCAL_JOB_ID", ""))
    task = _is_task(env)
    for launcher, names in MPI.items():
        # srun may set these, too; and mpirun may start its daemons by srun, of other numbers than its processes
        if names[0] in env and not (task and env.get(names[1]) == env.get(SRUN[1])):
            return _several(launcher, names, env)
    if not task:
        return None
    names = SRUN if SRUN[1] in env else (SRUN[0], "SLURM_NTASKS", SRUN[2])
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", "")
    return _several(
        "srun", names, env, first_host(nodes), f"{env.get('SLURM_JOB_ID')}.{env['SLURM_STEP_ID']}"
    )


def _is_task(env: Mapping[str, str]) -> bool:
    """Whether srun started this process. Batch scripts and interactive shells see most of its variables too."""
    step = env.get("SLURM_STEP_ID", "")
    return step.isdigit() and int(step) < REAL_STEPS


def _several(
    launcher: str, names: tuple[str, str, str], env: Mapping[str, str], address: str = "", job: str = ""
) -> Process | None:
    """As `_process`, but None for a single process; the port is derived from ``job``, which all processes know."""
    if env.get(names[1]) == "1":
        return None
    port = str(PORTS[zlib.crc32(job.encode()) % len(PORTS)]) if job else ""
    return _process(launcher, names, {ADDRESS: address, PORT: port, **env})


def _process(launcher: str, names: tuple[str, str, str], env: Mapping[str, str]) -> Process:
    rank, size, local_rank = names
    wrong = {name: not env.get(name, "").isdigit() for name in (rank, size)}
    wrong |= {ADDRESS: not env.get(ADDRESS), PORT: not env.get(PORT, "").isdigit()}
    missing = [name for name, lacking in wrong.items() if lacking]
    if missing:
        how = (
            "torchrun sets them all"
            if launcher == "torchrun"
            else (
                f"{launcher} started several processes, which need the host of process 0 as {ADDRESS} and a free port "
                f"as {PORT}; or start them with torchrun"
            )
        )
        raise UsageError(f"{rank}={env.get(rank)} is set without {', '.join(missing)}; {how}")
    local = env.get(local_rank, env[rank])
    return Process(launcher, int(env[rank]), int(env[size]), int(local), env[ADDRESS], int(env[PORT]))


def first_host(nodes: str) -> str:
    """The first host of SLURM's list: ``gpu03`` of ``gpu[03-06,9],login``."""
    match = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[(\w*)[^\]]*\]", r"\1", match[0]) if match else ""


def _hint(env: Mapping[str, str]) -> None:
    """Print a hint in a batch script, which sees the job's number of tasks but is a single process."""
    tasks = env.get("SLURM_NTASKS", "1")
    if tasks != "1" and "SLURM_JOB_ID" in env:
        print(
            f"SLURM's job has {tasks} tasks, but this process was not started by srun and trains alone; "
            "with srun before the command all of them train one model",
            file=sys.stderr,
        )


def _say_waiting(process: Process) -> None:
    print(
        f"{process}: waiting for the others at {process.address}:{process.port}", file=sys.stderr, flush=True
    )
