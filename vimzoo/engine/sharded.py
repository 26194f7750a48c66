"""Checkpoints of a sharded model: each process writes its own part, through torch.distributed.checkpoint."""

from __future__ import annotations

import contextlib
import pickle
import shutil
import sys
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from ..data import UsageError
from . import checkpoint
from .parallel import World
from .state import State

LAST, PREVIOUS = "last.dcp", "previous.dcp"
PROGRESS = "progress.pt"  # beside the parts: all that is not sharded
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def tensors(state: State, moments: bool) -> dict[str, Any]:
    """Weights, average and, if asked for, moments under their names, sharded as they are.

    Where an optimizer has none yet, torch makes it take a step without gradients, which it would count.
    """
    content: dict[str, Any] = {"model": get_model_state_dict(state.model)}
    if moments:
        content["optimizer"] = get_optimizer_state_dict(state.model, state.optimizer)
    if state.ema is not None:
        content["model_ema"] = get_model_state_dict(state.ema.module)
    return content


def save(state: State, path: Path, config: dict[str, Any]) -> None:
    """Write a folder of parts and their checksums to a temporary name, rename; ``last.dcp`` becomes ``previous.dcp``.

    Raises:
        OSError: it cannot be written; the folder that was there stays.
    """
    temporary, moments = path.with_name(path.name + ".tmp"), bool(state.optimizer.state)
    if state.world.main:
        shutil.rmtree(temporary, ignore_errors=True)
    state.world.wait()
    with _naming(path, temporary, state.world):
        dcp.save(tensors(state, moments), checkpoint_id=temporary)
        sums = checksums(temporary, state.world)
        if state.world.main:
            rest = {**checkpoint.progress(state, config), "moments": moments, "checksums": sums}
            checkpoint.write(rest, temporary / PROGRESS)
    if state.world.main:
        previous = path.with_name(PREVIOUS)
        if path.exists():
            shutil.rmtree(previous, ignore_errors=True)
            path.rename(previous)
        temporary.rename(path)
        checkpoint.sync_folder(path.parent)
    state.world.wait()


@contextlib.contextmanager
def _naming(path: Path, temporary: Path, world: World) -> Iterator[None]:
    """Failures to write as one error that names the checkpoint; what was written so far is removed."""
    try:
        yield
    except (OSError, dcp.api.CheckpointException) as error:
        if world.main:
            shutil.rmtree(temporary, ignore_errors=True)
        raise checkpoint.cannot_write(path, error) from error


def checksums(folder: Path, world: World) -> dict[str, int]:
    """CRC-32 of every part of a checkpoint by file name, -1 where it cannot be read; the processes share the work."""
    names = sorted(path.name for path in folder.iterdir() if path.name != PROGRESS)
    mine = {name: _crc(folder / name) for name in names[world.rank :: world.size]}
    return {name: crc for part in world.gather(mine) for name, crc in part.items()}


def _crc(path: Path) -> int:
    crc = 0
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                crc = zlib.crc32(block, crc)
    except OSError:
        return -1
    return crc


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


def read_progress(path: Path) -> dict[str, Any]:
    """What a checkpoint holds apart from weights and moments.

    Raises:
        OSError, zipfile.BadZipFile: it is missing or damaged.
    """
    checkpoint.verify(path / PROGRESS)
    return torch.load(path / PROGRESS, weights_only=True)


def _restore(state: State, path: Path) -> dict[str, Any]:
    try:
        rest = read_progress(path)
        found = checksums(path, state.world)
        for name, crc in rest["checksums"].items():
            if found.get(name) != crc:
                raise OSError(f"the checksum of {name} is wrong")
        content = tensors(state, rest["moments"])
        dcp.load(content, checkpoint_id=path, no_dist=not dist.is_initialized())
    except (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        pickle.UnpicklingError,
        dcp.api.CheckpointException,
    ) as error:
        raise UsageError(
            f"resume={path}: not a readable checkpoint of this model ({_reason(error)})"
        ) from error
    set_model_state_dict(state.model, content["model"])
    if rest["moments"]:
        set_optimizer_state_dict(state.model, state.optimizer, content["optimizer"])
    else:
        state.optimizer.state.clear()
    if state.ema is not None:
        set_model_state_dict(state.ema.module, content["model_ema"])
    return rest


def _reason(error: BaseException) -> str:
    """The last line of a message: the one without traceback."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights on the CPU of process 0, nothing on the others; every process has to call it."""
    weights = OrderedDict(get_model_state_dict(model, options=WHOLE))
    weights._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]  # models record their grid there
    return weights  # type: ignore[return-value]


def save_best(state: State, path: Path, config: dict[str, Any]) -> None:
    """The weights that are evaluated, gathered into one file like any other run's, without moments."""
    weights = whole_weights(state.averaged)
    if state.world.main:
        checkpoint.write({"model": weights, **checkpoint.progress(state, config)}, path)


def load_whole(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give every process its part of weights that each has read whole."""
    set_model_state_dict(model, dict(weights), options=WHOLE)
