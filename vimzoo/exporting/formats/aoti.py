"""AOTInductor packages: the model compiled ahead of time, with calls of our operators."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from ..program import to_program
from ..record import Format, Run, Source


def save_aoti(program: ExportedProgram, path: Path, metadata: Mapping[str, Any]) -> None:
    """A compiled ``.pt2`` package for ``torch._inductor.aoti_load_package``; it runs on this kind of machine only.

    Raises:
        RuntimeError: there is no C++ compiler, or compilation fails.
    """
    options = {
        "aot_inductor.metadata": {key: json.dumps(value) for key, value in metadata.items()},
        # Packs weights for oneDNN; silently ignored where gradients are enabled
        "freezing": not _has_narrow_maps(program),
    }
    with torch.no_grad():
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)


def _has_narrow_maps(program: ExportedProgram) -> bool:
    """Whether a convolution's map is one position high or wide: its packed form is read with wrong strides there.

    Seen in torch 2.14 with an open batch size; which strides such a map has is ambiguous.
    """
    convolutions = (node for node in program.graph.nodes if node.target is torch.ops.aten.conv2d.default)
    return any(
        side == 1 for node in convolutions for side in node.meta["val"].shape[2:] if isinstance(side, int)
    )


def load_aoti(path: Path) -> Run:
    """The package's compiled function."""
    return torch._inductor.aoti_load_package(str(path))


def _save(source: Source, path: Path) -> None:
    program = to_program(source.model, source.example, dynamic_size=source.dynamic_size)
    save_aoti(program, path, source.metadata)


FORMAT = Format(
    name="aoti",
    suffix=".aoti.pt2",
    save=_save,
    load=load_aoti,
    runs_with="`torch._inductor.aoti_load_package`, after `import vimzoo.ops`",
    operators="ours; the rest of the model is compiled for this kind of machine",
)
