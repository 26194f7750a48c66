"""Gives the nodes of scans in an ONNX model their meaning."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from vimzoo.ops.paths.path import COLUMN

from .blocks import MOST
from .definition import DOMAIN, INPUTS, NAME, Kind, function


def scans(model: ir.Model) -> list[ir.Node]:
    """The nodes ``vimzoo::ScanPaths`` of a model."""
    return [node for node in model.graph.all_nodes() if (node.domain, node.op_type) == (DOMAIN, NAME)]


def kind_of(node: ir.Node) -> Kind:
    """What the inputs and attributes of a node say."""
    given: dict[str, Any] = dict(zip(INPUTS, node.inputs, strict=False))
    codes, dtype = tuple(node.attributes["codes"].as_ints()), given["x"].dtype
    parameters = ("rates", "dt_weight", "dt_bias", "D")
    present = {name for name, value in given.items() if value is not None}
    states, channels = given["rates"].shape[1:]
    # Of images: a sequence may be shorter than a few blocks
    blocks = states > 1 and max(codes) >= COLUMN and len(codes) * states * channels <= MOST
    return Kind(
        codes=codes,
        states=states,
        own_inputs=len(given["x"].shape) == 4,
        own_rows=given["x_dbl"].shape[2] > 1,
        shared=tuple(
            name for name in parameters if name in present and given[name].shape[0] == 1 < len(codes)
        ),
        skip="D" in present,
        gate="z" in present,
        table="table" in present,
        merge=bool(node.attributes["merge"].as_int()),
        blocks=blocks,
        dtype=dtype,
        work=ir.DataType.DOUBLE if dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT,
    )


def attach_functions(model: ir.Model) -> None:
    """Add functions for each kind of scan to a model, and name them in the nodes."""
    for node in scans(model):
        kind = kind_of(node)
        for each in (replace(kind, blocks=False), kind):  # the first is for `inline`
            node.overload = each.overload
            if node.op_identifier() not in model.functions:
                model.functions[node.op_identifier()] = function(each, model.opset_imports[""])
    model.ir_version = max(model.ir_version, 10)  # the first with overloads


def inline(model: ir.Model) -> None:
    """Put functions in the places of their calls, without loops in loops, which OpenVINO cannot read."""
    from onnx_ir.passes.common import InlinePass

    for node in scans(model):
        node.overload = node.overload.replace("_blocks", "")
    InlinePass()(model)
    model.functions.clear()  # of those that nothing calls any more


def fold(model: ir.Model) -> None:
    """Replace what scans and convolutions use, where it depends on weights alone, by its value.

    Loops may use nothing from outside that is computed there; see `vimzoo.exporting.scan_function.loops`.
    """
    graph = model.graph
    users = [*scans(model), *(node for node in graph.all_nodes() if node.op_type == "Conv")]
    wanted = {value: None for node in users for value in node.inputs if value is not None}
    upstream: dict[ir.Value, list[ir.Node] | None] = {}

    def nodes_of(value: ir.Value) -> list[ir.Node] | None:
        """The nodes that compute a value from constants; None if something else is needed too."""
        if value not in upstream:
            node = value.producer()
            if node is None:
                upstream[value] = [] if value.is_initializer() else None
            elif any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values()):
                upstream[value] = None
            else:
                parts = [nodes_of(part) for part in node.inputs if part is not None]
                upstream[value] = None if None in parts else [*(n for p in parts for n in p or ()), node]
        return upstream[value]

    folded = [value for value in wanted if nodes_of(value)]
    if not folded:
        return
    nodes = dict.fromkeys(node for value in folded for node in nodes_of(value) or ())
    for value, array in zip(folded, _evaluate(nodes, folded, graph.opset_imports), strict=True):
        constant = ir.Value(name=f"{value.name}_folded", const_value=ir.tensor(array))
        constant.shape, constant.type = ir.Shape(array.shape), value.type
        graph.register_initializer(constant)
        ir.convenience.replace_all_uses_with(value, constant)


def _evaluate(nodes: Iterable[ir.Node], outputs: list[ir.Value], opsets: dict[str, int]) -> list[Any]:
    """The values of some outputs of nodes that depend on nothing else."""
    import onnx
    from onnxruntime import InferenceSession

    constants = {v.name: v for node in nodes for v in node.inputs if v is not None and v.is_initializer()}
    initializers = []
    for name, value in constants.items():
        assert name is not None and value.const_value is not None
        initializers.append(ir.serde.serialize_tensor(value.const_value))
        initializers[-1].name = name  # a tensor has a name of its own, or none
    graph = onnx.GraphProto(
        name="constants",
        node=[ir.serde.serialize_node(node) for node in nodes],
        initializer=initializers,
        output=[ir.serde.serialize_value(value) for value in outputs],
    )
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    return InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {})
