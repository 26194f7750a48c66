"""Checkpoints of one file: plain containers, written atomically."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vimzoo.errors import UsageError, first_line
from vimzoo.files import remove, sync_folder

from ..state import State
from .background import Copies

BEST = "best.pt"
LAST, LAST_PARTS = "last.pt", "last.dcp"  # the newest checkpoint of a run: a file, or a folder of parts
PREVIOUS = {LAST: "previous.pt", LAST_PARTS: "previous.dcp"}  # and the one before it
COUNTERS = ("epoch", "batch", "step", "nonfinite", "sums", "best", "history", "accumulate", "sizes")


class Unreadable(UsageError):
    """A checkpoint is missing or damaged; the previous one may be read instead."""


def progress(state: State, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """Everything in a checkpoint except weights and optimizer moments."""
    plateau = getattr(
        state.scheduler, "lr_scheduler", None
    )  # the one schedule that is not a function of time
    return {
        **{name: getattr(state, name) for name in COUNTERS},
        "scaler": state.scaler.state_dict(),
        "plateau": plateau.state_dict() if plateau is not None else {},
        "ema_rounding": None if state.ema is None else state.ema._sr_generator.get_state(),
        "config": config or {},
        "data": state.data,
    }


def save(state: State, path: Path, config: dict[str, Any] | None = None, best: bool = False) -> None:
    """Write the whole state to ``path``; ``timm.create_model(name, checkpoint_path=path)`` reads it too.

    An existing ``last.pt`` is kept as ``previous.pt``. If this is the ``best`` checkpoint so far, ``best.pt`` is
    written first: a run killed in between resumes from the previous checkpoint and reaches the same best again.

    Raises:
        OSError: it cannot be written (disk full, for example); the existing file stays.
    """
    write(content(state, config), path, best)


@dataclass
class Writer:
    """Writes last.pt, in process 0; see `forms.Writer`."""

    copies: Copies = field(default_factory=Copies)

    def save(self, state: State, folder: Path, config: dict[str, Any], best: bool = False) -> None:
        if state.world.main:
            save(state, folder / LAST, config, best)

    def beside(self, state: State, folder: Path, config: dict[str, Any]) -> Callable[[], None]:
        if not state.world.main:
            return lambda: None
        return partial(write, self.copies.of(content(state, config)), folder / LAST)

    def close(self) -> None:
        self.copies = Copies()


def content(state: State, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """What `save` writes; its tensors are the live ones, which training changes further."""
    parts = {
        "model": state.model.state_dict(),
        "model_ema": None if state.ema is None else state.ema.module.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        **progress(state, config),
    }
    return {key: value for key, value in parts.items() if value is not None}


def write(content: dict[str, Any], path: Path, best: bool = False) -> None:
    """Write atomically: temporary file, fsync, checksums, rename; see `save`."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        verify(temporary)
        if best:
            _second_name(temporary, path.with_name(BEST))
        give_name(temporary, path)
    except (OSError, RuntimeError) as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def give_name(temporary: Path, path: Path) -> None:
    """Rename a finished checkpoint; the last one, in either form, becomes the previous one.

    A run that resumes on another number of processes may change the form. Its folder still holds two checkpoints, the
    newest and the one before it.
    """
    kept = set()
    for last, previous in PREVIOUS.items() if path.name in PREVIOUS else ():
        if (old := path.with_name(last)).exists():
            kept.add(previous)
            remove(old.with_name(previous))
            old.rename(old.with_name(previous))
    temporary.replace(path)
    sync_folder(path.parent)
    for previous in set(PREVIOUS.values()) - kept if kept else ():
        remove(path.with_name(previous))


def verify(path: str | Path) -> None:
    """Check the checksum of every part of a file written by torch.save.

    Raises:
        OSError, zipfile.BadZipFile: the file is missing, cut short or changed.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")


def cannot_write(path: Path, error: BaseException) -> OSError:
    """The error for a checkpoint that cannot be written, with the reason.

    On a full disk torch may only report a truncated file; the message then states the free space.
    """
    for first, _ in list(getattr(error, "failures", {}).values())[:1]:  # by process, of a sharded checkpoint
        error = first
    cause = error if isinstance(error, OSError) else error.__context__
    reason = getattr(cause, "strerror", None)
    if not reason:
        free = shutil.disk_usage(path.parent).free
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        reason = f"{last}; {free} bytes are free on that disk"
    kept = "; the checkpoint before it is whole" if path.exists() else ""
    return OSError(f"{path}: cannot be written ({reason}){kept}")


def _second_name(file: Path, name: Path) -> None:
    """Hard-link a checkpoint, which is never changed in place; copy it where links are not supported."""
    temporary = name.with_name(name.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(file, temporary)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, temporary)
    temporary.replace(name)


def read(path: str | Path, whole: bool = True) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU, unpickled safely.

    Args:
        whole: read all of it now and verify checksums; otherwise tensors are memory-mapped.

    Raises:
        Unreadable: the file is missing, damaged, or not one of ours.
    """
    try:
        if whole:
            verify(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=not whole)
    except FileNotFoundError as error:
        raise Unreadable(f"resume={path}: no such file; expected a last.pt or best.pt") from error
    except (
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
    ) as e:
        raise Unreadable(f"resume={path}: not a readable checkpoint ({first_line(e)})") from e
    missing = {"model", "epoch", "step"} - set(content if isinstance(content, dict) else ())
    if missing:
        raise Unreadable(f"resume={path}: not a training checkpoint, it lacks {', '.join(sorted(missing))}")
    return content


def load_training(state: State, content: dict[str, Any], path: str | Path) -> None:
    """Load weights, their average and optimizer moments from a checkpoint.

    Raises:
        UsageError: it belongs to another model or optimizer.
    """
    if "optimizer" not in content:
        raise UsageError(f"resume={path}: weights of a sharded run; expected its {LAST_PARTS}")
    load_weights(state.model, content["model"], path)
    if state.ema is not None:
        load_weights(state.ema.module, content.get("model_ema", content["model"]), path)
    load_optimizer(state, content["optimizer"], path)


def load_optimizer(state: State, saved: dict[str, Any], path: str | Path) -> None:
    """Load moments and settings of an optimizer; older checkpoints may lack the settings.

    Raises:
        UsageError: they belong to another optimizer.
    """
    saved = {"param_groups": state.optimizer.state_dict()["param_groups"], **saved}
    try:
        state.optimizer.load_state_dict(saved)
    except (ValueError, KeyError) as error:
        raise UsageError(
            f"resume={path}: its optimizer does not fit optim and run.freeze of this run ({error})"
        ) from error


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], path: str | Path) -> None:
    """Load weights, or raise `UsageError` without changing the model."""
    own = model.state_dict()
    wrong = sorted(set(own) ^ set(weights)) or [k for k in own if own[k].shape != weights[k].shape]
    if wrong:
        raise UsageError(
            f"resume={path}: made with another model: {len(wrong)} tensors differ, the first is {wrong[0]}; "
            "repeat the model and data overrides of the first run"
        )
    model.load_state_dict(weights)
