"""Processes that a launcher has started: torchrun, or SLURM through submitit."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ..data import UsageError
from .parallel import MINUTES, World, joined


@contextlib.contextmanager
def launched(minutes: float | None = None) -> Iterator[World]:
    """This process among those that a launcher has started for one run; alone where none has.

    Args:
        minutes: how long a process waits for the others before it gives up; None is `MINUTES`.

    Raises:
        UsageError: see `started_elsewhere`.
    """
    if not started_elsewhere():
        yield World()
        return
    size, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    with joined(rank, size, local_rank, "env://", minutes or MINUTES) as world:
        yield world


def started_elsewhere() -> bool:
    """Whether torchrun, or SLURM through submitit, has started this process as one of several.

    Raises:
        UsageError: it has, but did not say how to find the others.
    """
    if "SUBMITIT_EXECUTOR" in os.environ and "RANK" not in os.environ:
        import submitit

        if submitit.JobEnvironment().num_tasks > 1:
            submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    if "RANK" not in os.environ:
        return False
    missing = [name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UsageError(
            f"RANK={os.environ['RANK']} is set without {', '.join(missing)}; torchrun sets them all"
        )
    return True
