"""Automatic resume of jobs that their launcher restarts."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vimzoo.errors import UsageError

from ..processes.cluster import by_launcher
from ..processes.job import RESTARTS
from ..processes.parallel import World
from . import lookup, resume
from .saver import Stopped

FINISHED = "metrics.json"  # written once the last epoch has been evaluated
SAME_RESULT = {"run.accumulate"}  # raised by a run that was short of memory


def is_own(cfg: dict[str, Any], out: Path, env: Mapping[str, str] = os.environ) -> bool:
    """Whether a job that is started continues the run in ``out``: it has the same settings, and a launcher has
    started this job again, or has started it and the run is unfinished.

    Args:
        cfg: the settings of this run. If ``resume`` names another one, the run in ``out`` has to have begun from it.
        out: a run folder, perhaps of another run.
        env: the launcher's variables.
    """
    begun = lookup.wanted("auto", out)
    if begun is None or not (started_again(env) or (by_launcher(env) and not (out / FINISHED).exists())):
        return False
    try:
        before = lookup.configuration(begun)
        other = resume.differences(before, cfg).keys() - SAME_RESULT
        return not other and cfg["resume"] in (None, "auto", before["resume"])
    except (UsageError, OSError):
        return False


def started_again(env: Mapping[str, str]) -> bool:
    """Whether torchrun has restarted its workers, or SLURM has requeued the job."""
    counts = (env.get(name, "") for name in RESTARTS)
    return any(count.isdigit() and int(count) > 0 for count in counts)


def launcher_goes_on(stop: Stopped, world: World) -> bool:
    """Call the launcher's handler of a signal, now that the run is saved.

    The handler of submitit for SIGUSR2 asks for another start and ends the process; for SIGTERM it does nothing.

    Returns:
        Whether there was such a handler, and the run shall continue here. All processes follow the first one's handler.
    """
    goes_on = False
    try:
        handler = signal.getsignal(stop.number)
        if world.main and callable(handler) and stop.number != signal.SIGINT:
            print(stop, file=sys.stderr, flush=True)
            handler(stop.number, None)
            goes_on = True
    finally:
        (goes_on,) = map(bool, world.largest(goes_on))
    return goes_on
