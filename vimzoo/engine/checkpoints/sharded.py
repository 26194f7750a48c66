"""Checkpoints of a sharded model: each process writes its own part, through torch.distributed.checkpoint."""

from __future__ import annotations

import contextlib
import copy
import functools
import pickle
import shutil
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import staging
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from ..processes.parallel import World
from ..state import State
from . import checkpoint

LAST, PREVIOUS = list(checkpoint.FORMS.items())[1]
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
    temporary, content, rest = _begun(state, path, config)
    _complete(path, rest, lambda: dcp.save(content, checkpoint_id=temporary), state.world)


class SaverBeside:
    """Saves beside training, in the memory and through the connections that it keeps for that. All processes make one.

    Attributes:
        world: the processes as the thread that saves talks to them.
        stager: torch's memory for copies; None in torch 2.8, which takes new memory for each.
    """

    def __init__(self, world: World) -> None:
        self.world = world.beside()
        kept = getattr(staging, "DefaultStager", None)
        self.stager: Any = kept and kept(staging.StagingOptions(False, False, False, False))  # copies at once

    def save(self, state: State, path: Path, config: dict[str, Any]) -> Callable[[], None]:
        """Copy everything; what this returns then does the rest of `save`, in another thread."""
        temporary, content, rest = _begun(state, path, config)
        memory = {"async_stager": self.stager} if self.stager else {}
        saving = dcp.async_save(content, checkpoint_id=temporary, process_group=self.world.group, **memory)
        written: Any = getattr(saving, "upload_completion", saving)  # with some stagers
        return functools.partial(_complete, path, copy.deepcopy(rest), written.result, self.world)

    def close(self) -> None:
        """Give the memory back."""
        if self.stager:
            self.stager.close()


def _begun(state: State, path: Path, config: dict[str, Any]) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Where to write, where nothing is now; what is sharded, and what is not."""
    temporary, moments = path.with_name(path.name + ".tmp"), bool(state.optimizer.state)
    if state.world.main:
        shutil.rmtree(temporary, ignore_errors=True)
    state.world.wait()
    rest = {**checkpoint.progress(state, config), "moments": moments}
    if not moments:
        rest["groups"] = state.optimizer.state_dict()["param_groups"]
    return temporary, tensors(state, moments), rest


def _complete(path: Path, rest: dict[str, Any], write: Callable[[], Any], world: World) -> None:
    """Write the parts, their checksums and the rest, and give the checkpoint its name."""
    temporary = path.with_name(path.name + ".tmp")
    with _naming(path, temporary, world):
        write()
        sums = checksums(temporary, world)
        if world.main:
            checkpoint.write({**rest, "checksums": sums}, temporary / PROGRESS)
    if world.main:
        checkpoint.give_name(temporary, path)
    world.wait()


@contextlib.contextmanager
def _naming(path: Path, temporary: Path, world: World) -> Iterator[None]:
    """Failures to write as one error that names the checkpoint; what was written so far is removed."""
    try:
        yield
    except (OSError, dcp.api.CheckpointException) as error:
        failure = checkpoint.cannot_write(path, error)  # looks at the disk as it is
        if world.main:
            shutil.rmtree(temporary, ignore_errors=True)
        raise failure from error


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


def read_progress(path: Path) -> dict[str, Any]:
    """What a checkpoint holds apart from weights and moments.

    Raises:
        Unreadable: it is missing or damaged.
    """
    with _reading(path):
        checkpoint.verify(path / PROGRESS)
        return torch.load(path / PROGRESS, weights_only=True)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Failures to read as one error that names the checkpoint."""
    try:
        yield
    except (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        dcp.api.CheckpointException,
    ) as error:
        raise checkpoint.Unreadable(
            f"resume={path}: not a readable checkpoint of this model ({_reason(error)})"
        ) from error


def _compare(path: Path, sums: dict[str, int], world: World) -> None:
    """Refuse a checkpoint with a part that is missing or changed; the processes share the work."""
    found = checksums(path, world)
    for name, crc in sums.items():
        if found.get(name) != crc:
            raise OSError(f"the checksum of {name} is wrong")


def restore(state: State, path: Path, rest: dict[str, Any]) -> None:
    """Give every process its part of weights, average and moments. The processes may be others than those that wrote.

    Args:
        rest: what `read_progress` gives.

    Raises:
        Unreadable: it is missing, damaged, or of another model or optimizer.
    """
    with _reading(path):
        _compare(path, rest["checksums"], state.world)
        names = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
        content = tensors(state, rest["moments"])
        if state.ema is not None and not any(name.startswith("model_ema.") for name in names):
            del content["model_ema"]
        dcp.load(content, checkpoint_id=path)
    set_model_state_dict(state.model, content["model"])
    if rest["moments"]:
        set_optimizer_state_dict(state.model, state.optimizer, content["optimizer"])
    else:
        checkpoint.load_optimizer(state, {"state": {}} | _groups(rest), path)
    if state.ema is not None:
        set_model_state_dict(state.ema.module, content.get("model_ema", content["model"]))


def _groups(rest: dict[str, Any]) -> dict[str, Any]:
    return {"param_groups": rest["groups"]} if "groups" in rest else {}


def read(path: Path) -> dict[str, Any]:
    """All of a checkpoint, as `checkpoint.read` gives a file: whole tensors, moments by the number of the parameter.

    Raises:
        Unreadable: it is missing or damaged.
    """
    rest = read_progress(path)
    with _reading(path):
        _compare(path, rest["checksums"], World())
        metadata = dcp.FileSystemReader(path).read_metadata()
        flat: dict[str, Any] = {
            name: torch.empty(part.size, dtype=part.properties.dtype)
            if isinstance(part, TensorStorageMetadata)
            else None
            for name, part in metadata.state_dict_metadata.items()
        }
        with warnings.catch_warnings():  # that one process alone reads is meant
            warnings.simplefilter("ignore")
            dcp.load(flat, checkpoint_id=path, no_dist=True)
        content: dict[str, Any] = {}
        for name, value in flat.items():
            *folders, last = metadata.planner_data[name]
            place = content
            for folder in folders:
                place = place.setdefault(folder, {})
            place[last] = value
    if rest["moments"]:
        content["optimizer"] = _by_number(content["optimizer"])
    else:
        content["optimizer"] = {"state": {}} | _groups(rest)
    return {**content, **rest}


def _by_number(named: dict[str, Any]) -> dict[str, Any]:
    """The state of an optimizer as the optimizer itself writes it, from one that knows parameters by name."""
    groups = [named["param_groups"][index] for index in sorted(named["param_groups"])]
    order = {name: number for number, name in enumerate(name for group in groups for name in group["params"])}
    return {
        "state": {order[name]: values for name, values in named["state"].items()},
        "param_groups": [{**group, "params": [order[name] for name in group["params"]]} for group in groups],
    }


def divided(whole: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """Tensors that every process holds whole, divided among the processes as those of the same name are.

    Args:
        whole: tensors by name. like: tensors of this run by name; what is not sharded there stays whole.
    """
    return {name: _divided(value, like.get(name)) for name, value in whole.items()}


def _divided(value: Any, like: Any) -> Any:
    fits = isinstance(like, DTensor) and value.shape == like.shape
    return distribute_tensor(value, like.device_mesh, like.placements) if fits else value


def divided_training(state: State, content: dict[str, Any]) -> dict[str, Any]:
    """What `checkpoint.load_training` takes, from a content that every process holds whole."""
    content = {**content, "model": divided(content["model"], state.model.state_dict())}
    if state.ema is not None and "model_ema" in content:
        content["model_ema"] = divided(content["model_ema"], state.ema.module.state_dict())
    if moments := content.get("optimizer", {}).get("state"):
        get_optimizer_state_dict(state.model, state.optimizer)  # makes some; weights are not loaded yet
        parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
        own = {number: state.optimizer.state[p] for number, p in enumerate(parameters)}
        moments = {number: divided(values, own.get(number, {})) for number, values in moments.items()}
        content["optimizer"] = {**content["optimizer"], "state": moments}
    return content


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
