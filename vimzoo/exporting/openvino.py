"""OpenVINO: as a reader of ONNX files, and with our scan as an operator of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vimzoo.ops.runtime.openvino import openvino_extension

from .record import Opened, Run, Runtime, Shapes

EXACT = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
"""OpenVINO rounds the activations of products with weights of 8 bits by default, and without a message."""

ACTIVATIONS = {"ScanPaths": (0, 1), "CausalConv1d": (0,), "Depthwise": (0,), "Norm": (0,)}
"""Our operators' inputs that are activations, besides the gate; the rest are parameters and sizes."""
BLIND = ("Convert", "ShapeOf")
"""Operators that take any dtype and whose result it does not change."""


def compiled(model: Any, core: Any, shapes: Shapes | None, precision: str = "f32") -> Run:
    """A model that OpenVINO has read, on the CPU, with as many threads as torch uses.

    Args:
        model: An ``openvino.Model``.
        core: The ``openvino.Core`` that read it.
        shapes: Of the inputs, if it is to be compiled for these alone, as users do for speed.
        precision: Of the arithmetic, ``"f32"`` or ``"bf16"``.
    """
    if shapes is not None:
        model.reshape({index: list(shape) for index, shape in enumerate(shapes)})
    if precision == "bf16":
        in_bfloat16(model)
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        **EXACT,
    }
    request = core.compile_model(model, "CPU", options)

    def run(*inputs: Tensor) -> Tensor:
        return torch.from_numpy(request([each.numpy() for each in inputs])[0].copy())

    return run


def in_bfloat16(model: Any) -> None:
    """Have our operators in a model, and all between them, read and write bfloat16.

    The hint ``bf16`` asks this of OpenVINO's own operators. By itself OpenVINO runs operators of others in the dtype of
    the file, with a conversion before and after each.

    Args:
        model: An ``openvino.Model``, which is changed.

    Raises:
        TypeError: ``model`` is something else, such as the path of a file.
        ImportError: openvino is missing.
    """
    if not hasattr(model, "get_ordered_ops"):
        raise TypeError(
            f"model: expected an openvino.Model, as core.read_model returns it, got {type(model).__name__}"
        )
    from openvino import Type, opset13

    narrow, wide, nodes = Type.bf16, Type.f32, model.get_ordered_ops()
    after, before = _reached(nodes, forward=True), _reached(nodes[::-1], forward=False)
    between = after & before
    for node in nodes:
        if node.get_name() not in between:
            continue
        for place in _activations(node):
            value = node.input_value(place)
            if value.get_element_type() == wide:
                node.input(place).replace_source_output(opset13.convert(value, narrow).output(0))
        node.validate_and_infer_types()
    for node in nodes:
        outputs = node.outputs() if node.get_name() in between else []
        for output in (each for each in outputs if each.get_element_type() == narrow):
            readers = [
                reader
                for reader in output.get_target_inputs()
                if reader.get_node().get_name() not in between
                and reader.get_node().get_type_name() not in BLIND
            ]
            widened = opset13.convert(output, wide).output(0) if readers else None
            for reader in readers:
                reader.replace_source_output(widened)


def _reached(nodes: Sequence[Any], *, forward: bool) -> set[str]:
    """The names of our operators and of those that come after them, or before them."""
    names: set[str] = set()
    for node in nodes:
        if forward:
            near = [value.get_node() for value in node.input_values()]
        else:
            near = [reader.get_node() for output in node.outputs() for reader in output.get_target_inputs()]
        if node.get_type_name() in ACTIVATIONS or any(each.get_name() in names for each in near):
            names.add(node.get_name())
    return names


def _activations(node: Any) -> Sequence[int]:
    """The inputs of an operator that are not parameters or sizes of one of ours."""
    places = ACTIVATIONS.get(node.get_type_name())
    if places is None:
        return range(node.get_input_size())
    given = node.get_attributes()
    gate = 7 + given["skip"] if "skip" in given else 2 + given.get("bias", False)
    return (*places, gate) if given.get("gate") else places


def load_inlined(path: Path, shapes: Shapes | None = None) -> Run:
    """An ONNX file in OpenVINO, with its functions inlined.

    Args:
        path: As `save_onnx` or `inline` writes it.
        shapes: As in `compiled`.
    """
    import onnx_ir as ir
    import openvino

    from .scan_function import attach

    model = ir.load(path)
    attach.inline(model)
    core = openvino.Core()
    return compiled(core.read_model(ir.to_proto(model).SerializeToString()), core, shapes)


def load_with_our_scan(path: Path, shapes: Shapes | None = None, precision: str = "f32") -> Run:
    """A file with ``vimzoo::ScanPaths``, an ONNX or an IR one, in OpenVINO with our scan.

    Args:
        path: As the formats ``onnx`` and ``openvino`` write it.
        shapes, precision: As in `compiled`.
    """
    model, core = _read_with_our_scan(path)
    return compiled(model, core, shapes, precision)


def open_with_our_scan(path: Path, precision: str = "f32") -> Opened:
    """A file for `load_with_our_scan`, with its metadata.

    Args:
        path, precision: As in `load_with_our_scan`.
    """
    model, core = _read_with_our_scan(path)
    kept: Any = {}
    for place in (
        "vimzoo",
        "framework",
    ):  # of our own IR files; where OpenVINO puts the metadata of ONNX files
        if model.has_rt_info([place]):
            kept = {key: str(value) for key, value in model.get_rt_info([place]).value.items()}
            break
    height, width = (
        side.get_length() if side.is_static else None for side in list(model.inputs[0].partial_shape)[2:4]
    )
    return Opened(compiled(model, core, None, precision), kept, (height, width))


def _read_with_our_scan(path: Path) -> tuple[Any, Any]:
    """The model in a file, and the ``openvino.Core`` that read it."""
    import openvino

    core = openvino.Core()
    core.add_extension(str(openvino_extension()))
    return core.read_model(path), core


INLINED = Runtime("OpenVINO", ("openvino",), load_inlined)
WITH_OUR_SCAN = Runtime("OpenVINO with our scan", ("openvino",), load_with_our_scan)
