"""Training checkpoints: plain containers, written so that a crash leaves the old file or the new one."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data import UsageError
from .build import State


def save(state: State, path: Path, config: dict[str, Any] | None = None) -> None:
    """Write the whole state to ``path``; ``timm.create_model(name, checkpoint_path=path)`` reads it too."""
    content = {
        "model": state.model.state_dict(),
        "model_ema": None if state.ema is None else state.ema.module.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "epoch": state.epoch,
        "step": state.step,
        "best": state.best,
        "history": state.history,
        "config": config or {},
    }
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({key: value for key, value in content.items() if value is not None}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable where the system allows opening a folder."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU, unpickled safely.

    Raises:
        UsageError: the file is missing, damaged, or not one of ours.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UsageError(f"resume={path}: no such file; expected a last.pt or best.pt") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"resume={path}: not a readable checkpoint ({reason})") from error
    missing = {"model", "optimizer", "epoch", "step"} - set(content if isinstance(content, dict) else ())
    if missing:
        raise UsageError(f"resume={path}: not a training checkpoint, it lacks {', '.join(sorted(missing))}")
    return content


def load_averaged(state: State, path: Path) -> None:
    """Take the weights that are evaluated from a checkpoint of this run."""
    content = read(path)
    _load(state.averaged, content.get("model_ema", content["model"]), path)


def restore(state: State, path: str | Path) -> None:
    """Continue ``state`` from a checkpoint.

    Raises:
        UsageError: see ``read``; also when the file is of another model or another kind of run.
    """
    content = read(path)
    _load(state.model, content["model"], path)
    if state.ema is not None:
        _load(state.ema.module, content.get("model_ema", content["model"]), path)
    try:
        state.optimizer.load_state_dict(content["optimizer"])
    except (ValueError, KeyError) as error:
        raise UsageError(f"resume={path}: its optimizer does not fit optim of this run ({error})") from error
    if state.scaler.is_enabled() and content.get("scaler"):
        state.scaler.load_state_dict(content["scaler"])
    state.epoch, state.step = content["epoch"], content["step"]
    state.best, state.history = content["best"], content["history"]
    if state.epoch >= state.epochs:
        raise UsageError(
            f"resume={path}: {state.epoch} epochs are finished; "
            f"expected run.epochs above that, not {state.epochs}"
        )
    if state.scheduler is not None:
        # The schedule is a function of the step, so a longer run.epochs may continue a shorter run.
        state.scheduler.step(state.epoch)
        state.scheduler.step_update(state.step)


def _load(model: nn.Module, weights: dict[str, torch.Tensor], path: str | Path) -> None:
    """Load weights whole or not at all."""
    own = model.state_dict()
    wrong = sorted(set(own) ^ set(weights)) or [k for k in own if own[k].shape != weights[k].shape]
    if wrong:
        raise UsageError(
            f"resume={path}: made with another model: {len(wrong)} tensors differ, the first is {wrong[0]}; "
            "repeat the model and data overrides of the first run"
        )
    model.load_state_dict(weights)
