"""Records which model wrote the results in a folder, so that a folder never mixes two models."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from os.path import isfile
from pathlib import Path
from typing import Any

from vimzoo.files import whole_file

from .folders import Job
from .restorer import Restorer

__all__ = ["claim_results", "identity"]

NOTE = ".vimzoo-restore.json"


def claim_results(folder: Path, restorer: Restorer, jobs: Sequence[Job], existing: str) -> None:
    """Record the model in a folder of results; raise if existing results to be skipped are of another model.

    Folders without a record, and those where none can be written, are accepted.

    Raises:
        ValueError: results to be skipped were made with other weights, or with another choice of self-ensemble.
    """
    own = identity(restorer)
    note, skipped = folder / NOTE, existing == "skip" and any(isfile(job.target) for job in jobs)
    theirs = _read(note)
    if skipped:
        refuse_others(folder, own, theirs)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(note, "w") as file:
            file.write(json.dumps(own) + "\n")


def refuse_others(folder: Path | str, own: dict[str, Any], theirs: dict[str, Any] | None) -> None:
    """Raise if the record of a folder is of another model.

    Raises:
        ValueError: it is.
    """
    if theirs is not None and theirs != own:
        names = ", ".join(name for name in own | theirs if theirs.get(name) != own.get(name))
        raise ValueError(
            f"--existing skip: the results in {folder} were made with other {names}; expected another folder, or "
            "--existing overwrite"
        )


def identity(restorer: Restorer) -> dict[str, Any]:
    """What makes results those of a model: its class, a digest of its weights, and how they are used."""
    own = {
        "model": type(restorer.model).__name__,
        "weights": _digest(restorer),
        "self_ensemble": restorer.self_ensemble,
    }
    if (restorer.routing or getattr(restorer.model, "routing", None)) == "argmax":
        own["routing"] = "argmax"
    if (peak := getattr(restorer.model, "peak", None)) is not None:
        own["peak"] = peak
    return own


def _read(note: Path) -> dict[str, Any] | None:
    """The record of a folder; None if there is none."""
    try:
        return dict(json.loads(note.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _digest(restorer: Restorer) -> str:
    """A digest of all weights and their names."""
    total = hashlib.sha256()
    for name, tensor in sorted(restorer.model.state_dict().items()):
        total.update(f"{name} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]
