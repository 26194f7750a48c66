"""ONNX files of standard operators only: the scan is ONNX's ``Scan``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from vimzoo.models.inputs import input_names

from ..eight_bits import quantise
from ..lowering import DECOMPOSITIONS, WITH_OWN_OPERATORS
from ..openvino import INLINED
from ..program import to_program
from ..record import Format, Opened, Run, Source, Variant


def save_onnx(
    program: ExportedProgram, path: Path, metadata: Mapping[str, Any], inputs: Sequence[str] = ("images",)
) -> None:
    """One ``.onnx`` file with input ``images``, output ``output`` and the metadata.

    Each scan is one node ``vimzoo::ScanPaths``, which a function in the file defines by standard operators.

    Args:
        program: As `to_program` makes it.
        path: The file to write.
        metadata: To be stored in it, as JSON.
        inputs: The names of its inputs, in the order of the program's.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing.
    """
    from ..scan_function.attach import attach_functions

    written = translate(program, inputs, DECOMPOSITIONS)
    attach_functions(written.model)
    written.model.metadata_props.update({key: json.dumps(value) for key, value in metadata.items()})
    written.save(path)


def translate(
    program: ExportedProgram, inputs: Sequence[str], decompositions: Mapping[Any, Callable[..., Any]]
) -> torch.onnx.ONNXProgram:
    """A program in ONNX, in which our nodes have no meaning yet.

    Args:
        program, inputs: As in `save_onnx`.
        decompositions: Of the operators that PyTorch's exporter does not know.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing.
    """
    from ..quantized import needed_opset, write_products
    from ..scan_function.attach import fold

    written = torch.onnx.export(
        program.run_decompositions(dict(decompositions)),
        dynamo=True,
        input_names=list(inputs),
        output_names=["output"],
        opset_version=needed_opset(program),
        verbose=False,
    )
    assert written is not None
    for node in written.model.graph.all_nodes():
        # Stack traces with the paths of this machine, hundreds of kilobytes
        node.metadata_props.clear()
    write_products(written.model)
    fold(written.model)
    return written


def translate_for_own_operators(source: Source) -> torch.onnx.ONNXProgram:
    """A model in ONNX, for runtimes with our operators."""
    from ..own_operators import use_own_operators

    program = to_program(source.model, source.example, dynamic_size=source.dynamic_size)
    written = translate(program, input_names(source.model), WITH_OWN_OPERATORS)
    use_own_operators(written.model)
    return written


def inline(path: Path, to: Path) -> None:
    """Write an ONNX file again with every function in the places of its calls, for readers that know none.

    Args:
        path: The file to read, as `save_onnx` writes it.
        to: The file to write.
    """
    import onnx_ir as ir

    from ..scan_function import attach

    model = ir.load(path)
    attach.inline(model)
    ir.save(model, to)


def open_onnx(path: Path, library: Path | None = None) -> Opened:
    """An ONNX file in an onnxruntime session on the CPU, with as many threads as torch uses.

    Args:
        path: The file.
        library: Of operators, such as `vimzoo.onnxruntime_extension` builds.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only: its warnings are about shapes inside the graph
    if library is not None:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        given = {name: each.numpy() for name, each in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    shape = [*session.get_inputs()[0].shape, None, None]  # open sides have names
    height, width = (side if isinstance(side, int) else None for side in shape[2:4])
    return Opened(run, session.get_modelmeta().custom_metadata_map, (height, width))


def load_onnx(path: Path) -> Run:
    """An ONNX file in onnxruntime, as `open_onnx` opens it."""
    return open_onnx(path).run


def _save(source: Source, path: Path) -> None:
    program = to_program(source.model, source.example, dynamic_size=source.dynamic_size)
    save_onnx(program, path, source.metadata, input_names(source.model))


FORMAT = Format(
    name="onnx",
    suffix=".onnx",
    save=_save,
    load=load_onnx,
    runs_with="onnxruntime, and any other runtime that reads ONNX",
    operators="standard ones; the scan is an ONNX function of them around ONNX's `Scan`",
    requires=("onnx", "onnxscript", "onnxruntime"),
    variants={
        "int8": Variant(".int8.onnx", quantise, "also write an ONNX file with 8-bit weights"),
        "inline": Variant(".inlined.onnx", inline, "also write an ONNX file without functions"),
    },
    others=(INLINED,),
)
