"""Checks before the first step that all processes have the same code, settings, data and run folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from vimzoo.data import Splits
from vimzoo.data.images.fingerprint import fingerprint
from vimzoo.errors import UsageError

from ..configuration.words import flat
from ..reports.report import versions
from .parallel import World

OWN = re.compile(r"data\.\w*root|data\.cache|resume")
"""Settings that may differ: paths differ between machines; the contents are compared instead."""


def check_settings(world: World, cfg: Mapping[str, Any]) -> None:
    """Check that all processes have the same settings, versions and source code.

    Raises:
        UsageError: something differs; names it and both values.
    """
    _check(
        world, versions() | {"source code of vimzoo": source_digest()}, "install the same versions everywhere"
    )
    settings = {name: str(value) for name, value in flat(dict(cfg)).items() if not OWN.fullmatch(name)}
    _check(world, settings, "give all processes the same command")


def check_data(world: World, data: Splits) -> None:
    """Check that all processes see the same data.

    Raises:
        UsageError: something differs; names it and both values.
    """
    if world.size > 1:
        _check(world, fingerprint(data), f"give all processes the same data, here {data.name}")


def check_folder(world: World, folder: Path, parallel: str) -> None:
    """Check whether all processes see the run folder of process 0, which sharded runs need.

    Raises:
        UsageError: one does not, and all would write there.
    """
    if world.size == 1:
        return
    with contextlib.ExitStack() as stack:
        mark = Path(world.first(lambda: stack.enter_context(tempfile.NamedTemporaryFile(dir=folder)).name))
        hosts = world.gather(None if _appears(mark) else socket.gethostname())
    blind = [f"process {rank} on {host}" for rank, host in enumerate(hosts) if host is not None]
    if blind and parallel == "fsdp":
        raise UsageError(
            f"hydra.run.dir={folder}: {', '.join(blind[:4])} {'does' if len(blind) == 1 else 'do'} not see that folder "
            "of process 0, where all processes of run.parallel=fsdp write; expected a folder on a disk that all "
            "machines share, or run.parallel=ddp"
        )
    if blind and world.main:
        print(
            f"{folder} is seen by {world.size - len(blind)} of {world.size} processes; process 0 writes everything"
        )


def _appears(path: Path, seconds: float = 10.0) -> bool:
    """Whether a file made by another process becomes visible here; network file systems may take a while."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if path.name in os.listdir(path.parent):  # listing refreshes the cache of such file systems
                return True
        if time.monotonic() > end:
            return False
        time.sleep(0.2)


def _check(world: World, facts: dict[str, str], remedy: str) -> None:
    if world.size == 1:
        return
    digest = hashlib.blake2b(repr(sorted(facts.items())).encode(errors="surrogateescape")).hexdigest()
    if len(set(world.gather(digest))) == 1:
        return
    everywhere = world.gather(facts)
    for rank, others in enumerate(everywhere):
        differing = [name for name in {**facts, **others} if everywhere[0].get(name) != others.get(name)]
        if differing:
            name = min(differing, key=list(everywhere[0] | others).index)
            here, there = (_short(side.get(name)) for side in (everywhere[0], others))
            raise UsageError(f"{name}: process 0 has {here}, process {rank} has {there}; {remedy}")


def _short(value: str | None) -> str:
    return "none" if value is None else value if len(value) <= 80 else value[:77] + "..."


@cache
def source_digest() -> str:
    """A digest of all Python files of the package."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()
