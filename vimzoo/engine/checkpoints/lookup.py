"""Which checkpoint a run resumes from: the newest of a run folder, or an older one if that is damaged."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from vimzoo.errors import UsageError

from ..configuration.older import updated
from . import checkpoint, forms


def wanted(asked: str | None, out: Path) -> Path | None:
    """The checkpoint to resume from: a file, a run folder's newest, or with ``auto`` that of ``out``, if it has one.

    Raises:
        UsageError: the folder given holds none.
    """
    if asked is None or asked == "auto":
        return next(iter(newest_first(out)), None) if asked else None
    begun: Path | None = Path(asked).expanduser()
    if begun and begun.is_dir() and begun.suffix != ".dcp":
        begun = next(iter(newest_first(begun)), None)
        if begun is None:
            raise UsageError(
                f"resume={asked}: no checkpoint in that folder; expected a run folder or its last.pt"
            )
    return begun


class Taken(UsageError):
    """A run folder that belongs to another run."""


def find(asked: str | None, out: Path) -> Path | None:
    """As `wanted`, but refuses to overwrite another run.

    Raises:
        UsageError: see `wanted`.
        Taken: ``out`` holds another run.
    """
    own, begun = wanted("auto", out), wanted(asked, out)
    if own and (begun is None or begun.parent.resolve() != out.resolve()):
        raise Taken(
            f"{out} holds a run already ({own.name}); expected resume=auto to continue it, or another hydra.run.dir"
        )
    return begun


def newest_first(run: Path) -> list[Path]:
    """The checkpoints of a run folder, newest first.

    They usually have one form. If a run was killed while it changed the form, they are sorted by step, or by time if
    the step of one cannot be read.
    """
    found = [path for path in (run / name for name in forms.NAMES) if path.exists()]
    if len({path.suffix for path in found}) > 1:
        steps = {path: _step(path) for path in found}
        known = None not in steps.values()
        found.sort(key=lambda path: (steps[path] if known else 0, forms.of(path).written(path)), reverse=True)
    return found


def _step(path: Path) -> int | None:
    try:
        return forms.of(path).progress(path)["step"]
    except checkpoint.Unreadable:
        return None


def attempts(path: Path) -> list[Path]:
    """A checkpoint, then those to try if it is missing or damaged, newest first."""
    found = newest_first(path.parent) if path.name in checkpoint.PREVIOUS else []
    return [path, *found[found.index(path) + 1 if path in found else 0 :]]


def first_readable(paths: list[Path], read: Callable[[Path], Any], say: bool = True) -> Any:
    """``read(path)`` of the first readable path; prints a message if it is not the first of ``paths``.

    Raises:
        Unreadable: none is readable; with the reason for the first.
    """
    failed: checkpoint.Unreadable | None = None
    for path in paths:
        try:
            content = read(path)
        except checkpoint.Unreadable as error:
            failed = failed or error
            continue
        if failed and say:
            print(f"{failed}; resuming from {path}, step {content['step']}", file=sys.stderr, flush=True)
        return content
    assert failed is not None
    raise failed


def configuration(path: Path) -> dict[str, Any]:
    """The settings of a checkpoint's run, from config.yaml beside it or from the checkpoint itself.

    Raises:
        UsageError: there is no readable checkpoint.
    """
    try:
        return updated(yaml.safe_load((path.parent / "config.yaml").read_text()))
    except FileNotFoundError:
        return first_readable(attempts(path), lambda path: forms.of(path).progress(path))["config"]
