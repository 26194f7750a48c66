"""Products with weights of 8 and 4 bits: ``python benchmarks/quantized_linear.py``.

Compares `vimzoo.ops.quantized_linear` with widening the weight and multiplying, with a float32 product, and with
torchao and onnxruntime where they are installed, all interleaved in one process on one thread. Writes
``benchmarks/results/MACHINE/quantized_linear.json``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from common import measure, table, write
from torch import Tensor, nn

from vimzoo.ops import linear, quantize_weight, quantized_linear

SHAPES = ((768, 768), (768, 3072), (3072, 768))
ROWS = (1, 16, 197)
Run = Callable[[], Any]


def ours(x: Tensor, weight: Tensor) -> dict[str, Run]:
    """Our kernels, and what they replace."""
    eight, four = quantize_weight(weight), quantize_weight(weight, 4, group=32, symmetric=False)
    return {
        "float32": partial(linear, x, weight),
        "int8": partial(quantized_linear, x, eight),
        "int8, widened first": lambda: linear(x, eight.dequantize()),
        "int4": partial(quantized_linear, x, four),
        "int4, widened first": lambda: linear(x, four.dequantize()),
        "int8 dynamic": partial(quantized_linear, x, eight, activations="int8"),
    }


def torchao(x: Tensor, weight: Tensor) -> dict[str, Run]:
    """torchao's linear layers."""
    if find_spec("torchao") is None:
        return {}
    from torchao import quantization as q

    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight)
    made: dict[str, Run] = {}
    for name, config in {
        "int8": q.Int8WeightOnlyConfig(),
        "int4": q.IntxWeightOnlyConfig(torch.int4),
        "int8 dynamic": q.Int8DynamicActivationInt8WeightConfig(),
    }.items():
        small = nn.Sequential(copy.deepcopy(layer))
        q.quantize_(small, config)
        made[f"torchao {name}"] = partial(small, x)
    return made


def onnxruntime(x: Tensor, weight: Tensor) -> dict[str, Run]:
    """onnxruntime's operators for dynamic 8 bits and for blocks of 4 bits, after its own quantizers."""
    if find_spec("onnxruntime") is None:
        return {}
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1

    def session(nodes: list[Any], values: dict[str, np.ndarray]) -> Run:
        shapes = {"x": list(x.shape), "y": [x.shape[0], weight.shape[0]]}
        ends = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()}
        constants = [numpy_helper.from_array(value, name) for name, value in values.items()]
        graph = helper.make_graph(nodes, "product", [ends["x"]], [ends["y"]], constants)
        domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=domains, ir_version=9)
        run = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return partial(run.run, None, {"x": x.numpy()})

    eight, four = quantize_weight(weight), quantize_weight(weight, 4, group=32)
    columns, outputs = weight.shape[1], weight.shape[0]
    nodes = [
        helper.make_node(
            "DynamicQuantizeMatMul", ["x", "w", "scale", "zero"], ["y"], domain="com.microsoft"
        )
    ]  # fmt: skip
    values = {
        "w": eight.values[:, :columns].T.contiguous().numpy(),
        "scale": eight.scale[:, 0].numpy(),
        "zero": np.zeros(outputs, np.int8),
    }
    found = {"onnxruntime int8 dynamic": session(nodes, values)}
    pairs = four.whole_numbers().to(torch.uint8).view(outputs, -1, 16, 2)  # neighbours share a byte there
    blocks = (pairs[..., 0] | pairs[..., 1] << 4).numpy()
    nodes = [
        helper.make_node(
            "MatMulNBits", ["x", "w", "scale"], ["y"], domain="com.microsoft", K=columns, N=outputs, bits=4,
            block_size=32,
        )
    ]  # fmt: skip
    found["onnxruntime int4"] = session(nodes, {"w": blocks, "scale": four.scale.flatten().numpy()})
    return found


@torch.inference_mode()
def main() -> None:
    """Measure every shape, and store the times."""
    torch.set_num_threads(1)
    rows = []
    for columns, outputs in SHAPES:
        torch.manual_seed(0)
        weight = torch.randn(outputs, columns)
        for count in ROWS:
            x = torch.randn(count, columns)
            runs = ours(x, weight) | torchao(x, weight) | onnxruntime(x, weight)
            times = measure(runs, budget=3.0)
            us = {name: spent["median"] * 1e6 for name, spent in times.items()}
            rows.append({"rows": count, "inputs": columns, "outputs": outputs, **us})
    table(rows, list(rows[0]))
    about = (
        "microseconds of one product, float32 activations, one thread, all interleaved; int4: groups of 32; widened "
        "first: the weight is made float32 by torch, then multiplied; dynamic: activations are rounded to 8 bits by row"
    )
    write("quantized_linear", rows, about)


if __name__ == "__main__":
    main()
