"""One process per device of this machine, for commands whose processes share their work."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta

import torch.distributed as dist

from vimzoo.commands import Exit

from .parallel import MINUTES, notes_of

__all__ = ["LOST", "add_devices", "run_on"]

LOST = "lost/{}"
"""The key under which a process that has ended unexpectedly is noted, by rank."""
POLL = 0.2  # seconds


def add_devices(command: argparse._ActionsContainer) -> None:
    """Add the argument ``--devices``."""
    command.add_argument(
        "--devices", metavar="0,1", type=_devices,
        help="several devices of this machine, such as 0,1 (GPUs) or cpu,cpu: one process each, which share the work",
    )  # fmt: skip


def _devices(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected devices separated by commas, such as 0,1, got {text!r}")
    return [f"cuda:{name}" if name.isdecimal() else name for name in names]


def run_on(devices: Sequence[str], module: str, arguments: Sequence[str]) -> int:
    """Run ``python -m MODULE ARGUMENTS`` in one process per device; returns the exit status of the first.

    This process keeps the store of them all. If one of the others is killed, the first repeats its work.
    """
    size = len(devices)
    store = dist.TCPStore("localhost", 0, None, True, timedelta(minutes=MINUTES), wait_for_workers=False)
    shared = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # process 0 makes none of its own
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // size))),
    }
    words = [sys.executable, "-m", module, *arguments]
    children = [
        subprocess.Popen(words, env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(size)
    ]
    told: set[int] = set()
    try:
        while (status := children[0].poll()) is None:
            for rank, child in enumerate(children):
                if child.poll() is not None and child.returncode < 0 and rank not in told:
                    told.add(rank)
                    notes_of(store).set(LOST.format(rank), signal.Signals(-child.returncode).name)
            time.sleep(POLL)
        for child in children[1:]:
            child.wait()
    except KeyboardInterrupt:  # which the others have got too
        for child in children:
            child.wait()
        return Exit.INTERRUPTED
    finally:
        for child in children:
            if child.poll() is None:
                child.terminate()
    if status < 0:
        name = signal.Signals(-status).name
        print(f"error: process 0 was ended by {name}; the same command continues", file=sys.stderr)
        return Exit.FAILED
    return status
