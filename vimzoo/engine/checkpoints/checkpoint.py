"""Training checkpoints: plain containers, written so that a crash leaves the old file or the new one, whole."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vimzoo.errors import UsageError

from ..state import State

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
FORMS = {
    LAST: PREVIOUS,
    "last.dcp": "previous.dcp",
}  # the newest checkpoint and the one before: a file, or parts
COUNTERS = ("epoch", "batch", "step", "nonfinite", "sums", "best", "history", "accumulate", "sizes")


class Unreadable(UsageError):
    """A checkpoint that is missing or damaged; the one before it may be read instead."""


def progress(state: State, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a checkpoint holds apart from weights and moments."""
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

    A ``last.pt`` that is there already is kept as ``previous.pt``. The ``best`` so far becomes ``best.pt`` first:
    a run that is ended in between and goes on from the checkpoint before comes to the same best again.

    Raises:
        OSError: it cannot be written, for want of space for example; the file that was there stays.
    """
    write(content(state, config), path, best)


def content(state: State, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """What `save` writes; the tensors are those that training changes."""
    parts = {
        "model": state.model.state_dict(),
        "model_ema": None if state.ema is None else state.ema.module.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        **progress(state, config),
    }
    return {key: value for key, value in parts.items() if value is not None}


def write(content: dict[str, Any], path: Path, best: bool = False) -> None:
    """To a temporary name, synced, read back, renamed; see ``save``."""
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
    """Give a checkpoint that is written its name. The last one, in either form, becomes the previous one.

    A run that goes on in another number of processes may change the form. A folder then still holds two checkpoints:
    the newest, and the one before it.
    """
    kept = set()
    for last, previous in FORMS.items() if path.name in FORMS else ():
        if (old := path.with_name(last)).exists():
            kept.add(previous)
            remove(old.with_name(previous))
            old.rename(old.with_name(previous))
    temporary.replace(path)
    sync_folder(path.parent)
    for previous in set(FORMS.values()) - kept if kept else ():
        remove(path.with_name(previous))


def remove(path: Path) -> None:
    """Remove a checkpoint if there is one."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def verify(path: str | Path) -> None:
    """Compare every part of a file that torch.save wrote with its checksum.

    Raises:
        OSError, zipfile.BadZipFile: the file is missing, cut short or changed.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")


def cannot_write(path: Path, error: BaseException) -> OSError:
    """That a checkpoint cannot be written, and why.

    Where the disk is full, torch may only report a file cut short; then the message has the space that is left.
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
    """A checkpoint is never changed in place, so a second name for it is enough."""
    temporary = name.with_name(name.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(file, temporary)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, temporary)
    temporary.replace(name)


def sync_folder(folder: Path) -> None:
    """Make the rename itself durable where the system allows opening a folder."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read(path: str | Path, whole: bool = True) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU, unpickled safely.

    Args:
        whole: read and verify all of it now; otherwise tensors are read from the disk when they are used.

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
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise Unreadable(f"resume={path}: not a readable checkpoint ({reason})") from e
    missing = {"model", "epoch", "step"} - set(content if isinstance(content, dict) else ())
    if missing:
        raise Unreadable(f"resume={path}: not a training checkpoint, it lacks {', '.join(sorted(missing))}")
    return content


def load_training(state: State, content: dict[str, Any], path: str | Path) -> None:
    """Take weights, average and moments of a checkpoint.

    Raises:
        UsageError: it is of another model or optimizer.
    """
    if "optimizer" not in content:
        raise UsageError(
            f"resume={path}: weights of a sharded run; expected its {LAST.replace('.pt', '.dcp')}"
        )
    load_weights(state.model, content["model"], path)
    if state.ema is not None:
        load_weights(state.ema.module, content.get("model_ema", content["model"]), path)
    load_optimizer(state, content["optimizer"], path)


def load_optimizer(state: State, saved: dict[str, Any], path: str | Path) -> None:
    """Take moments and settings, or the moments alone where older checkpoints hold no settings.

    Raises:
        UsageError: they are of another optimizer.
    """
    saved = {"param_groups": state.optimizer.state_dict()["param_groups"], **saved}
    try:
        state.optimizer.load_state_dict(saved)
    except (ValueError, KeyError) as error:
        raise UsageError(
            f"resume={path}: its optimizer does not fit optim and run.freeze of this run ({error})"
        ) from error


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], path: str | Path) -> None:
    """Load weights whole or not at all."""
    own = model.state_dict()
    wrong = sorted(set(own) ^ set(weights)) or [k for k in own if own[k].shape != weights[k].shape]
    if wrong:
        raise UsageError(
            f"resume={path}: made with another model: {len(wrong)} tensors differ, the first is {wrong[0]}; "
            "repeat the model and data overrides of the first run"
        )
    model.load_state_dict(weights)
