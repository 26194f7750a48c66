"""Models as files that run without this package's Python code: ONNX, torch.export, AOTInductor, TorchScript.

ONNX files hold standard operators only: the scan is ONNX's ``Scan``. The other three keep `vimzoo.ops`' operators as
nodes, so that ``import vimzoo.ops`` is all that a process needs to run them at full speed.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from .layers.linear import with_fast_linears
from .ops.scan.lowering import DECOMPOSITIONS

METADATA = "model.json"
"""Name under which a file carries what its user needs to know: input size, normalisation, scale."""


def to_program(model: nn.Module, example: Tensor, *, dynamic_size: bool = False) -> ExportedProgram:
    """``torch.export`` of a model in evaluation mode, for any number of images.

    Args:
        example: images ``(B, C, H, W)``, B at least 2; no axis that is to stay open may be 1.
        dynamic_size: leave height and width open too.
    """
    axes = {0: Dim.DYNAMIC} | ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC} if dynamic_size else {})
    model = model.eval().requires_grad_(False)
    with torch.no_grad():
        return torch.export.export(model, (example,), dynamic_shapes=(axes,))


def save_onnx(program: ExportedProgram, path: Path, metadata: dict[str, Any]) -> None:
    """One ``.onnx`` file of standard operators, input ``images``, output ``output``, metadata beside them.

    Raises:
        ImportError: onnx or onnxscript is missing.
    """
    lowered = program.run_decompositions(DECOMPOSITIONS)
    written = torch.onnx.export(
        lowered, dynamo=True, input_names=["images"], output_names=["output"], verbose=False
    )
    assert written is not None
    for node in written.model.graph.all_nodes():
        node.metadata_props.clear()  # lines of code and this machine's folders, hundreds of kilobytes
    written.model.metadata_props.update({key: json.dumps(value) for key, value in metadata.items()})
    written.save(path)


def save_pt2(program: ExportedProgram, path: Path, metadata: dict[str, Any]) -> None:
    """A ``.pt2`` archive for ``torch.export.load``."""
    torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata)})


def save_aoti(program: ExportedProgram, path: Path, metadata: dict[str, Any]) -> None:
    """A compiled ``.pt2`` package for ``torch._inductor.aoti_load_package``; it runs on this kind of machine only.

    Raises:
        RuntimeError: there is no C++ compiler, or it fails.
    """
    packed = {"aot_inductor.metadata": {key: json.dumps(value) for key, value in metadata.items()}}
    torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=packed)


def save_torchscript(model: nn.Module, path: Path, metadata: dict[str, Any], example: Tensor) -> None:
    """A traced ``.ts`` file for ``torch.jit.load``, for any number of images and any size that the model takes.

    A model with scan paths that have no closed form is for the size of ``example`` alone and refuses others.
    """
    model = with_fast_linears(model.eval().requires_grad_(False))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that stay as they are: the file is compared with the model
        graph = torch.jit.trace(model, example, check_trace=False)
    graph.save(str(path), _extra_files={METADATA: json.dumps(metadata)})


def quantise(path: Path, to: Path) -> None:
    """An ONNX file with its matrix products' weights in 8 bits, activations quantised as they come.

    Weights have a range per output channel and 7 of their 8 bits, for pairs of products of full ones overflow on
    processors without VNNI.

    Raises:
        ImportError: onnxruntime is missing.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.onnx_model import ONNXModel

    model = onnx.load(path)
    # shapes of inner tensors, which the quantiser works out anew and may contradict
    del model.graph.value_info[:]
    ONNXModel(model).replace_gemm_with_matmul()
    _scale_tokens(model.graph)
    options = {"per_channel": True, "reduce_range": True, "op_types_to_quantize": ["MatMul"]}
    quantize_dynamic(model, to, weight_type=QuantType.QInt8, **options)


def _scale_tokens(graph: Any) -> None:
    """Divide each token by its largest value before every product with constant weights, and multiply by it after.

    The quantiser has one range for the activations of a whole batch; gated ones have outliers, beside which the other
    tokens, and the other images, would keep few of their bits.
    """
    from onnx import helper, numpy_helper

    constants = {tensor.name for tensor in graph.initializer}
    graph.initializer.append(numpy_helper.from_array(np.array([-1]), "last_axis"))
    graph.initializer.append(numpy_helper.from_array(np.array([1e-30], np.float32), "above_zero"))
    nodes = []
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in constants:
            nodes.append(node)
            continue
        tokens, products = node.input[0], node.output[0]
        sizes, largest, scale, scaled, quotient = (f"{node.name}/{i}" for i in range(5))
        node.input[0], node.output[0] = scaled, quotient
        nodes += [
            helper.make_node("Abs", [tokens], [sizes]),
            helper.make_node("ReduceMax", [sizes, "last_axis"], [largest]),
            helper.make_node("Max", [largest, "above_zero"], [scale]),
            helper.make_node("Div", [tokens, scale], [scaled]),
            node,
            helper.make_node("Mul", [quotient, scale], [products]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)


def load(path: Path, kind: str) -> Callable[[Tensor], Tensor]:
    """What `save_onnx` and the others wrote, as a function of images ``(B, C, H, W)``.

    Args:
        kind: ``"onnx"``, ``"pt2"``, ``"aoti"`` or ``"torchscript"``.
    """
    if kind == "onnx":
        return _onnx_session(path)
    if kind == "pt2":
        return torch.export.load(path).module()
    if kind == "aoti":
        return torch._inductor.aoti_load_package(str(path))
    return torch.jit.load(str(path))


def _onnx_session(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # of its warnings about shapes none concerns the user
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    return run
