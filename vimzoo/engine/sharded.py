"""Checkpoints of a sharded model: each process writes its own part, through torch.distributed.checkpoint."""

from __future__ import annotations

import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)

from ..data import UsageError
from . import checkpoint
from .state import State

LAST, PREVIOUS = "last.dcp", "previous.dcp"
PROGRESS = "progress.pt"  # beside the parts: all that is not sharded
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def tensors(state: State) -> dict[str, Any]:
    """Weights, average and moments under their names, sharded as they are."""
    model, optimizer = get_state_dict(state.model, state.optimizer)
    content = {"model": model, "optimizer": optimizer}
    if state.ema is not None:
        content["model_ema"] = get_model_state_dict(state.ema.module)
    return content


def save(state: State, path: Path, config: dict[str, Any]) -> None:
    """Write a folder of parts to a temporary name, check it, rename; a ``last.dcp`` becomes ``previous.dcp``.

    Raises:
        OSError: it cannot be written; the folder that was there stays.
    """
    temporary = path.with_name(path.name + ".tmp")
    if state.world.main:
        shutil.rmtree(temporary, ignore_errors=True)
    state.world.wait()
    dcp.save(tensors(state), checkpoint_id=temporary)
    if state.world.main:
        checkpoint.write(checkpoint.progress(state, config), temporary / PROGRESS)
        verify(temporary)
        previous = path.with_name(PREVIOUS)
        if path.exists():
            shutil.rmtree(previous, ignore_errors=True)
            path.rename(previous)
        temporary.rename(path)
        checkpoint.sync_folder(path.parent)
    state.world.wait()


def verify(path: Path) -> None:
    """Compare the files with what the plan says they hold.

    Raises:
        OSError: one is missing or too short.
    """
    parts: dict[str, int] = {}
    for place in FileSystemReader(path).read_metadata().storage_data.values():
        end = place.offset + place.length
        parts[place.relative_path] = max(end, parts.get(place.relative_path, 0))
    for name, size in parts.items():
        if (path / name).stat().st_size < size:
            raise OSError(f"{path / name}: shorter than the {size} bytes that the plan says")


def restore(state: State, path: Path) -> dict[str, Any]:
    """Take weights, average and moments of a checkpoint; returns the rest. The run may have other processes
    than the one that wrote it, or a single one.

    Raises:
        UsageError: it is missing, damaged, or of another model or optimizer.
    """
    try:
        return _restore(state, path)
    except UsageError as error:
        previous = path.with_name(PREVIOUS)
        if path.name != LAST or not previous.is_dir():
            raise
        rest = _restore(state, previous)
        if state.world.main:
            print(f"{error}; going on from {previous}, step {rest['step']}", file=sys.stderr, flush=True)
        return rest


def _restore(state: State, path: Path) -> dict[str, Any]:
    content = tensors(state)
    try:
        verify(path)
        checkpoint.verify(path / PROGRESS)
        rest = torch.load(path / PROGRESS, weights_only=True)
        dcp.load(content, checkpoint_id=path, no_dist=not dist.is_initialized())
    except (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        pickle.UnpicklingError,
        dcp.api.CheckpointException,
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise UsageError(f"resume={path}: not a readable checkpoint of this model ({reason})") from error
    set_state_dict(
        state.model, state.optimizer, model_state_dict=content["model"], optim_state_dict=content["optimizer"]
    )
    if state.ema is not None:
        set_model_state_dict(state.ema.module, content["model_ema"])
    return rest


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights on the CPU of process 0, nothing on the others; every process has to call it."""
    return dict(get_model_state_dict(model, options=WHOLE))  # type: ignore[arg-type]


def save_best(state: State, path: Path, config: dict[str, Any]) -> None:
    """The weights that are evaluated, gathered into one file like any other run's, without moments."""
    weights = whole_weights(state.averaged)
    if state.world.main:
        checkpoint.write({"model": weights, **checkpoint.progress(state, config)}, path)


def load_whole(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give every process its part of weights that each has read whole."""
    set_model_state_dict(model, dict(weights), options=WHOLE)
