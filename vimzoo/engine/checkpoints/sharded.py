"""Checkpoints of a sharded model: a folder to which each process writes its part (torch.distributed.checkpoint)."""

from __future__ import annotations

import contextlib
import copy
import functools
import pickle
import shutil
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
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from ..processes.parallel import World
from ..state import State
from . import checkpoint

PROGRESS = "progress.pt"  # everything that is not sharded
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def tensors(state: State, moments: bool) -> dict[str, Any]:
    """Weights, their average and, if ``moments``, the optimizer's state, by name and still sharded.

    For an optimizer without state torch would run a step without gradients, which the optimizer would count.
    """
    content: dict[str, Any] = {"model": get_model_state_dict(state.model)}
    if moments:
        content["optimizer"] = get_optimizer_state_dict(state.model, state.optimizer)
    if state.ema is not None:
        content["model_ema"] = get_model_state_dict(state.ema.module)
    return content


def save(state: State, path: Path, config: dict[str, Any]) -> None:
    """Write parts and checksums to a temporary folder, then rename it; ``last.dcp`` becomes ``previous.dcp``.

    Raises:
        OSError: it cannot be written; the existing folder stays.
    """
    temporary, content, rest = _begun(state, path, config)
    _complete(path, rest, lambda: dcp.save(content, checkpoint_id=temporary), state.world)


class Writer:
    """Writes last.dcp, each process its part; see `forms.Writer`.

    Attributes:
        world: the processes as the thread that saves beside training talks to them; None until it has begun.
        stager: torch's memory for copies; None in torch 2.8, which takes new memory for each.
    """

    def __init__(self) -> None:
        self.world: World | None = None
        self.stager: Any = None

    def save(self, state: State, folder: Path, config: dict[str, Any], best: bool = False) -> None:
        if best:
            save_best(state, folder / checkpoint.BEST, config)
        save(state, folder / checkpoint.LAST_PARTS, config)

    def beside(self, state: State, folder: Path, config: dict[str, Any]) -> Callable[[], None]:
        if self.world is None:
            self.world = state.world.beside()
            if kept := getattr(staging, "DefaultStager", None):
                self.stager = kept(staging.StagingOptions(False, False, False, False))  # copies at once
        path = folder / checkpoint.LAST_PARTS
        temporary, content, rest = _begun(state, path, config)
        memory = {"async_stager": self.stager} if self.stager else {}
        saving = dcp.async_save(content, checkpoint_id=temporary, process_group=self.world.group, **memory)
        written: Any = getattr(saving, "upload_completion", saving)  # with some stagers
        return functools.partial(_complete, path, copy.deepcopy(rest), written.result, self.world)

    def close(self) -> None:
        if self.stager:
            self.stager.close()


def _begun(state: State, path: Path, config: dict[str, Any]) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """An empty temporary path, the sharded content, and everything else."""
    temporary, moments = path.with_name(path.name + ".tmp"), bool(state.optimizer.state)
    if state.world.main:
        shutil.rmtree(temporary, ignore_errors=True)
    state.world.wait()
    rest = {**checkpoint.progress(state, config), "moments": moments}
    if not moments:
        rest["groups"] = state.optimizer.state_dict()["param_groups"]
    return temporary, tensors(state, moments), rest


def _complete(path: Path, rest: dict[str, Any], write: Callable[[], Any], world: World) -> None:
    """Write the parts, their checksums and the rest, then rename the checkpoint."""
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
    """Turn write failures into one error that names the checkpoint, and remove the partial files."""
    try:
        yield
    except (OSError, dcp.api.CheckpointException) as error:
        failure = checkpoint.cannot_write(path, error)  # looks at the disk as it is
        if world.main:
            shutil.rmtree(temporary, ignore_errors=True)
        raise failure from error


def checksums(folder: Path, world: World) -> dict[str, int]:
    """CRC-32 of every part by file name (-1 if unreadable); the processes share the work."""
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
    """Everything in a checkpoint except weights and moments.

    Raises:
        Unreadable: it is missing or damaged.
    """
    with reading(path):
        checkpoint.verify(path / PROGRESS)
        return torch.load(path / PROGRESS, weights_only=True)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn read failures into one error that names the checkpoint."""
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


def compare(path: Path, sums: dict[str, int], world: World) -> None:
    """Raise if a part is missing or changed; the processes share the work."""
    found = checksums(path, world)
    for name, crc in sums.items():
        if found.get(name) != crc:
            raise OSError(f"the checksum of {name} is wrong")


def restore(state: State, path: Path, rest: dict[str, Any]) -> None:
    """Load each process's part of weights, average and moments; their number may differ from when it was written.

    Args:
        rest: what `read_progress` gives.

    Raises:
        Unreadable: it is missing, damaged, or belongs to another model or optimizer.
    """
    with reading(path):
        compare(path, rest["checksums"], state.world)
        names = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
        content = tensors(state, rest["moments"])
        if state.ema is not None and not any(name.startswith("model_ema.") for name in names):
            del content["model_ema"]
        dcp.load(content, checkpoint_id=path)
    set_model_state_dict(state.model, content["model"])
    if rest["moments"]:
        set_optimizer_state_dict(state.model, state.optimizer, content["optimizer"])
    else:
        checkpoint.load_optimizer(state, {"state": {}} | groups(rest), path)
    if state.ema is not None:
        set_model_state_dict(state.ema.module, content.get("model_ema", content["model"]))


def groups(rest: dict[str, Any]) -> dict[str, Any]:
    return {"param_groups": rest["groups"]} if "groups" in rest else {}


def _reason(error: BaseException) -> str:
    """The last line of a message, below any traceback."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights on the CPU of process 0, nothing elsewhere; a collective call."""
    weights = OrderedDict(get_model_state_dict(model, options=WHOLE))
    weights._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]  # models record their grid there
    return weights  # type: ignore[return-value]


def save_best(state: State, path: Path, config: dict[str, Any]) -> None:
    """Gather the evaluated weights into one file, as in any other run but without moments."""
    weights = whole_weights(state.averaged)
    if state.world.main:
        checkpoint.write({"model": weights, **checkpoint.progress(state, config)}, path)
