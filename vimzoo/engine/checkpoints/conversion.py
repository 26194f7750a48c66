"""From the parts of a sharded run to whole tensors, and back."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.tensor import DTensor, distribute_tensor

from ..processes.parallel import World
from ..state import State
from . import sharded


def read(path: Path) -> dict[str, Any]:
    """Read a sharded checkpoint as `checkpoint.read` reads a file: whole tensors, moments by parameter number.

    Raises:
        Unreadable: it is missing or damaged.
    """
    rest = sharded.read_progress(path)
    with sharded.reading(path):
        sharded.compare(path, rest["checksums"], World())
        metadata = dcp.FileSystemReader(path).read_metadata()
        flat: dict[str, Any] = {
            name: torch.empty(part.size, dtype=part.properties.dtype)
            if isinstance(part, TensorStorageMetadata)
            else None
            for name, part in metadata.state_dict_metadata.items()
        }
        with warnings.catch_warnings():  # torch warns that only one process reads
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
        content["optimizer"] = {"state": {}} | sharded.groups(rest)
    return {**content, **rest}


def _by_number(named: dict[str, Any]) -> dict[str, Any]:
    """Optimizer state keyed by parameter number, as torch.optim writes it, from one keyed by name."""
    groups = [named["param_groups"][index] for index in sorted(named["param_groups"])]
    order = {name: number for number, name in enumerate(name for group in groups for name in group["params"])}
    return {
        "state": {order[name]: values for name, values in named["state"].items()},
        "param_groups": [{**group, "params": [order[name] for name in group["params"]]} for group in groups],
    }


def divided(whole: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """Shard whole tensors as the tensors of the same name are sharded.

    Args:
        whole: tensors by name, complete in every process.
        like: tensors of this run by name; a tensor that is not sharded there stays whole.
    """
    return {name: _divided(value, like.get(name)) for name, value in whole.items()}


def _divided(value: Any, like: Any) -> Any:
    fits = isinstance(like, DTensor) and value.shape == like.shape
    return distribute_tensor(value, like.device_mesh, like.placements) if fits else value


def divided_training(state: State, content: dict[str, Any]) -> dict[str, Any]:
    """The argument of `checkpoint.load_training` from a content that is complete in every process."""
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
