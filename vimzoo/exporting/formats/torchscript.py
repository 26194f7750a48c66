"""Traced TorchScript files, in which our operators stay single nodes."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vimzoo.layers.linear import with_fast_linears

from ..record import METADATA, Examples, Format, Run


def save_torchscript(model: nn.Module, path: Path, metadata: Mapping[str, Any], example: Examples) -> None:
    """A traced ``.ts`` file for ``torch.jit.load``, for any number of images and any size that the model takes.

    If the model has scan paths without a closed form, the file takes only ``example``'s size and raises for others.
    """
    model = with_fast_linears(model.eval().requires_grad_(False))
    with torch.no_grad(), warnings.catch_warnings():
        # About sizes that become constants; `export` compares the file with the model at several sizes
        warnings.simplefilter("ignore")
        graph = torch.jit.trace(model, example, check_trace=False)
    graph.save(str(path), _extra_files={METADATA: json.dumps(metadata)})


def load_torchscript(path: Path) -> Run:
    """The scripted module."""
    return torch.jit.load(str(path))


FORMAT = Format(
    name="torchscript",
    suffix=".ts",
    save=lambda source, path: save_torchscript(source.model, path, source.metadata, source.example),
    load=load_torchscript,
    runs_with="`torch.jit.load`, after `import vimzoo.ops`",
    operators="ours, traced",
)
