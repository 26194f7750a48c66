"""The name of the cluster job that this process belongs to."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping

RESTARTS = (
    "SLURM_RESTART_COUNT",
    "TORCHELASTIC_RESTART_COUNT",
)  # how often a launcher has started the job again


def job_name(env: Mapping[str, str]) -> str | None:
    """A folder name for a job that may be restarted, the same at each start; None for other processes."""
    if "SLURM_JOB_ID" in env and env.get("ENVIRONMENT") == "BATCH":
        return f"slurm/{env['SLURM_JOB_ID']}"
    if env.get("TORCHELASTIC_MAX_RESTARTS", "0") == "0":
        return None
    run = env.get("TORCHELASTIC_RUN_ID", "none")
    if run == "none":  # torchrun was given no --rdzv-id; its process, which starts this one, stays
        run = f"{socket.gethostname()}-{os.getppid()}"
    return "torchrun/" + re.sub(r"[^\w.-]", "_", run)


def job_start(env: Mapping[str, str]) -> list[str]:
    """The name of a job that may be started again, and which of its starts this is; nothing for other processes."""
    name = job_name(env)
    return [name, " ".join(env.get(count, "0") for count in RESTARTS)] if name else []
