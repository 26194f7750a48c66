"""Eight-bit weights for ONNX files."""

from pathlib import Path
from typing import Any

import numpy as np


def quantise(path: Path, to: Path) -> None:
    """Write an ONNX file with 8-bit weights in its matrix products; activations are quantised at run time.

    Weights have one range per output channel and use 7 bits: sums of two 8-bit products overflow int16 on CPUs without
    VNNI.

    Args:
        path: The ONNX file to read, as `save_onnx` writes it.
        to: The file to write.

    Raises:
        ImportError: onnxruntime is missing.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.onnx_model import ONNXModel

    model = onnx.load(path)
    # The quantiser infers the shapes of inner tensors again, and may contradict stored ones
    del model.graph.value_info[:]
    ONNXModel(model).replace_gemm_with_matmul()
    _scale_tokens(model.graph)
    options = {"per_channel": True, "reduce_range": True, "op_types_to_quantize": ["MatMul"]}
    quantize_dynamic(model, to, weight_type=QuantType.QInt8, **options)


def _scale_tokens(graph: Any) -> None:
    """Divide each token by its largest absolute value before every product with constant weights; multiply after it.

    The quantiser uses one range for the activations of a whole batch. Gated activations have outliers, which would
    leave few bits to the other tokens and the other images.
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
