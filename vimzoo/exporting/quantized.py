"""Products with weights of 8 and 4 bits in ONNX's standard operators.

With activations as they are, the file computes the weight from its whole numbers, which runtimes do once, when they
load it. ``DequantizeLinear`` would be shorter, but onnxruntime 1.32 rounds the activations of such products to 8 bits
unless it is told not to. Rounded activations and their weight are multiplied as whole numbers, by ``MatMulInteger``.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from vimzoo.ops import QuantizedWeight

from .scan_function.nodes import Nodes, Value

DOMAIN, NAME = "vimzoo", "QuantizedLinear"
OPSET = 21
"""The first version of the standard operators with numbers of 4 bits."""
LEAST = 1e-36
"""In place of a smaller largest value of a token; 127 divided by it is finite."""


def needed_opset(program: ExportedProgram) -> int | None:
    """The version of the standard operators that a program's products need; None: any."""
    for node in program.graph.nodes:
        is_product = node.target is torch.ops.vimzoo.quantized_linear.default
        if is_product and node.args[1].meta["val"].dtype == torch.uint8:
            return OPSET
    return None


def write_products(model: ir.Model) -> None:
    """Replace the nodes that `vimzoo.exporting.lowering.quantized_linear` leaves by standard operators."""
    for node in [node for node in model.graph if (node.domain, node.op_type) == (DOMAIN, NAME)]:
        before = [value for value in node.inputs[1:] if value is not None]
        op = Nodes(ir.DataType.FLOAT, f"{node.name}/")
        product = _product(op, model.graph, node)
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], op.nodes, node.outputs, [product])
        for value in before:
            if not value.uses() and value.name is not None:
                model.graph.initializers.pop(value.name, None)


def _product(op: Nodes, graph: ir.Graph, node: ir.Node) -> Value:
    """``x W^T`` of one node."""
    x = node.inputs[0]
    assert x is not None
    values, scale, offset = (_tensor(value) for value in (*node.inputs[1:], None)[:3])
    assert values is not None and scale is not None
    weight = QuantizedWeight(values, scale, offset, node.attributes["columns"].as_int())
    source = node.inputs[1]
    assert source is not None

    def constant(name: str, array: np.ndarray) -> Value:
        name = f"{source.name}/{name}"
        if name not in graph.initializers:  # the layer has other products
            value = ir.Value(name=name, const_value=ir.tensor(array))
            value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
            graph.register_initializer(value)
        return graph.initializers[name]

    numbers, columns = weight.whole_numbers(), weight.columns
    groups = weight.scale.shape[-1]
    if groups == 1:
        numbers = numbers[:, :columns]
    grouped = numbers.unflatten(-1, (groups, -1)).permute(1, 2, 0)  # (G, columns of a group, O)
    whole_type = np.int8 if weight.bits == 8 else ml_dtypes.uint4
    if node.attributes["activations"].as_string() == "int8":
        largest = op.Max(op.ReduceMax(op.Abs(x), op.ints(-1), keepdims=1), op.number(LEAST))
        rounded = op.Cast(op.Round(op.Mul(x, op.Div(op.number(127), largest))), to=ir.DataType.INT8)
        whole = constant("weight", grouped[0].numpy().astype(whole_type))
        sums = op.Cast(op.MatMulInteger(rounded, whole), to=ir.DataType.FLOAT)
        of_outputs = constant("scale", weight.scale[:, 0].numpy())
        # One scale after the other: where both are multiplied first, onnxruntime 1.32 scales the bias too; see
        # findings/
        return op.Mul(op.Mul(sums, op.Div(largest, op.number(127))), of_outputs)
    wide = op.Cast(constant("weight", grouped.numpy().astype(whole_type)), to=ir.DataType.FLOAT)
    if weight.offset is not None:
        wide = op.Sub(wide, constant("offset", weight.offset.T.unsqueeze(1).numpy()))
    elif weight.bits == 4:
        wide = op.Sub(wide, op.number(8))
    wide = op.Mul(wide, constant("scale", weight.scale.T.unsqueeze(1).numpy()))
    wide = op.Reshape(wide, op.ints(-1, len(numbers)))
    return op.MatMul(x, op.part(wide, 0, 0, columns) if numbers.shape[1] > columns else wide)


def _tensor(value: ir.Value | None) -> torch.Tensor | None:
    """A constant; None is one that is left out."""
    if value is None:
        return None
    assert value.const_value is not None
    return torch.from_numpy(value.const_value.numpy())
