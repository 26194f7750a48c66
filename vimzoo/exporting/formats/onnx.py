"""ONNX files of standard operators only: the scan is ONNX's ``Scan``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from vimzoo.ops.scan.lowering import DECOMPOSITIONS

from ..eight_bits import quantise
from ..program import to_program
from ..record import Format, Run, Source, Variant


def save_onnx(program: ExportedProgram, path: Path, metadata: Mapping[str, Any]) -> None:
    """One ``.onnx`` file of standard operators with input ``images``, output ``output`` and the metadata.

    Raises:
        ImportError: onnx or onnxscript is missing.
    """
    lowered = program.run_decompositions(DECOMPOSITIONS)
    written = torch.onnx.export(
        lowered, dynamo=True, input_names=["images"], output_names=["output"], verbose=False
    )
    assert written is not None
    for node in written.model.graph.all_nodes():
        # Stack traces with the paths of this machine, hundreds of kilobytes
        node.metadata_props.clear()
    written.model.metadata_props.update({key: json.dumps(value) for key, value in metadata.items()})
    written.save(path)


def load_onnx(path: Path) -> Run:
    """An onnxruntime session on the CPU, with as many threads as torch uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only: its warnings are about shapes inside the graph
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    return run


def _save(source: Source, path: Path) -> None:
    program = to_program(source.model, source.example, dynamic_size=source.dynamic_size)
    save_onnx(program, path, source.metadata)


FORMAT = Format(
    name="onnx",
    suffix=".onnx",
    save=_save,
    load=load_onnx,
    runs_with="onnxruntime, and any other runtime that reads ONNX",
    operators="standard ones; the scan is ONNX's `Scan`",
    requires=("onnx", "onnxscript", "onnxruntime"),
    variants={"int8": Variant(".int8.onnx", quantise, "also write an ONNX file with 8-bit weights")},
)
