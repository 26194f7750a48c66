"""``torch.export`` archives, in which our operators stay single nodes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from ..program import to_program
from ..record import METADATA, Format, Run, Source


def save_pt2(program: ExportedProgram, path: Path, metadata: Mapping[str, Any]) -> None:
    """A ``.pt2`` archive for ``torch.export.load``."""
    torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata)})


def load_pt2(path: Path) -> Run:
    """The archive's module."""
    return torch.export.load(path).module()


def _save(source: Source, path: Path) -> None:
    program = to_program(source.model, source.example, dynamic_size=source.dynamic_size)
    save_pt2(program, path, source.metadata)


FORMAT = Format(
    name="pt2",
    suffix=".pt2",
    save=_save,
    load=load_pt2,
    runs_with="`torch.export.load`, after `import vimzoo.ops`",
    operators="ours, at full speed, with every backend",
)
