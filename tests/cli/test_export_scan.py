"""The operators as exporters write them compute what their definitions say."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from loops import faults
from torch import Tensor

from vimzoo.exporting import lowering
from vimzoo.ops import BIDIRECTIONAL, CROSS, ScanPath, path_arguments, reference
from vimzoo.ops.conv.call import ConvCall
from vimzoo.ops.norm.call import NormCall
from vimzoo.ops.scan.call import ScanCall

ir = pytest.importorskip("onnx_ir", reason="needs the extra vimzoo[export]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra vimzoo[export]")

from vimzoo.exporting.scan_function import DOMAIN, NAME, OPSET, function  # noqa: E402
from vimzoo.exporting.scan_function.attach import attach_functions, fold, inline  # noqa: E402
from vimzoo.exporting.scan_function.definition import INPUTS, Kind  # noqa: E402
from vimzoo.exporting.scan_function.nodes import Nodes  # noqa: E402
from vimzoo.exporting.scan_function.softplus import softplus  # noqa: E402

PATHS = {
    "sequence": (BIDIRECTIONAL, (1, 7), True),
    "cross": (CROSS, (7, 5), False),
    "cross, own inputs": (CROSS, (4, 3), True),
    "columns": ((ScanPath("column", reverse=True),), (3, 5), False),
    "windows": ((ScanPath.window(2), ScanPath.window(2).reversed()), (3, 5), False),
    "strides": ((ScanPath.stride(2, 0, 0), ScanPath.stride(2, 0, 1)), (4, 4), True),
}


def called(call: ScanCall) -> tuple[Any, dict[str, Any]]:
    """A model of one scan, as an exported file has it, and its inputs."""
    tensors: dict[str, Tensor | None] = {
        "x": call.x, "x_dbl": call.x_dbl, "rates": call.A.transpose(1, 2), "dt_weight": call.dt_weight.transpose(1, 2),
        "dt_bias": call.dt_bias, "height": torch.tensor(call.height), "width": torch.tensor(call.width), "D": call.D,
        "z": call.z, "table": call.table,
    }  # fmt: skip
    feeds = {name: t.contiguous().numpy() for name in INPUTS if (t := tensors[name]) is not None}
    values = {
        name: ir.Value(
            name=name, type=ir.TensorType(ir.DataType.from_numpy(array.dtype)), shape=ir.Shape(array.shape)
        )
        for name, array in feeds.items()
    }
    attributes = {"codes": list(call.codes), "merge": int(call.merge)}
    node = ir.node(NAME, [values.get(name) for name in INPUTS], attributes, domain=DOMAIN)
    node.outputs[0].name, node.outputs[0].type = "y", values["x"].type
    opsets = {"": OPSET, DOMAIN: 1}
    graph = ir.Graph(list(values.values()), node.outputs, nodes=[node], opset_imports=opsets, name="scan")
    model = ir.Model(graph, ir_version=10)
    attach_functions(model)
    return model, feeds


def run(model: Any, feeds: dict[str, Any]) -> Tensor:
    file = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, feeds)[0])


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("states", [1, 3])
@pytest.mark.parametrize("name", PATHS)
def test_function_is_the_operator(name: str, states: int, merge: bool) -> None:
    paths, (height, width), own_inputs = PATHS[name]
    K, L, D, N, R = len(paths), height * width, 6, states, 2
    x = torch.randn(2, L, K, D) if own_inputs else torch.randn(2, L, D)
    x_dbl = torch.randn(2, L, K, R + 2 * N)
    parameters = (-torch.rand(K, D, N), torch.randn(K, D, R), 3 * torch.randn(K, D), torch.randn(K, D))
    z = torch.randn(2, L, D) if own_inputs and merge else None
    call = ScanCall(x, x_dbl, *parameters, z, *path_arguments(paths, height, width), height, width, merge)
    model, feeds = called(call)
    torch.testing.assert_close(run(model, feeds), reference.scan_paths(call))
    inline(model)
    assert not model.functions
    torch.testing.assert_close(run(model, feeds), reference.scan_paths(call))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("states", [1, 2])
def test_shared_parameters_and_other_dtypes(states: int, dtype: torch.dtype) -> None:
    """Parameters and rows that directions share, no skip; float64 is computed in float64, float16 in float32."""
    work = reference.compute_dtype(torch.empty(0, dtype=dtype))
    x, x_dbl = torch.randn(1, 6, 4, dtype=dtype), torch.randn(1, 6, 1, 1 + 2 * states, dtype=dtype)
    shared = [-torch.rand(1, 4, states), torch.randn(1, 4, 1), torch.randn(1, 4)]
    arguments = [
        x,
        x_dbl,
        *(p.to(work) for p in shared),
        None,
        None,
        *path_arguments(CROSS, 2, 3),
        2,
        3,
        True,
    ]
    call = ScanCall(*arguments)
    model, feeds = called(call)
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {}
    torch.testing.assert_close(run(model, feeds), reference.scan_paths(call), **tolerance)


def test_softplus_is_exact_where_it_is_small() -> None:
    """To a few units in the last place, from where it underflows to where it is its argument."""
    op, x = (
        Nodes(ir.DataType.FLOAT),
        ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n"])),
    )
    y = softplus(op, x)
    y.name, y.type = "y", x.type
    graph = ir.Graph([x], [y], nodes=op.nodes, opset_imports={"": OPSET}, name="softplus")
    assert "Softplus" not in {node.op_type for node in graph}
    values = torch.linspace(-80, 90, 100_001)
    found = run(ir.Model(graph, ir_version=10), {"x": values.numpy()}).double()
    wanted = torch.nn.functional.softplus(values.double(), threshold=200)
    assert ((found - wanted).abs() / wanted).max() < 5e-7


def kinds() -> Iterator[Kind]:
    codes = [tuple(path.code for path in paths) for paths, _, _ in PATHS.values()]
    single = ir.DataType.FLOAT
    for paths, states, *flags in itertools.product(set(codes), (1, 4), *[(True, False)] * 5):
        own, skip, gate, merge, blocks = flags
        table, blocks = max(paths) > 3, blocks and states > 1
        yield Kind(paths, states, own, True, (), skip, gate, table, merge, blocks, single, single)


def test_no_body_has_what_openvino_computes_wrongly() -> None:
    count = 0
    for kind in kinds():
        made = function(kind)
        assert not list(faults(made, frozenset(made.inputs))), kind
        assert "Softplus" not in {node.op_type for node in made}
        count += sum(node.op_type == "Scan" for node in made)
    assert count > 100


def test_the_faults_are_found() -> None:
    """Of today's rules one body breaks both."""
    types = {"type": ir.TensorType(ir.DataType.FLOAT)}
    a, b, state, step = (ir.Value(name=name, **types) for name in ("a", "b", "state", "step"))
    scaled = ir.node("Exp", [b])
    product = ir.node("Mul", [step, state])
    total = ir.node("Add", [product.outputs[0], scaled.outputs[0]])
    body = ir.Graph([state, step], total.outputs, nodes=[product, total], name="step")
    scan = ir.node("Scan", [a, b], {"body": body, "num_scan_inputs": 1})
    graph = ir.Graph([a, b], scan.outputs, nodes=[scaled, scan], name="outside", opset_imports={"": OPSET})
    found = list(faults(graph))
    assert len(found) == 2 and "Mul begins" in found[0] and "Add uses" in found[1]


def test_what_depends_on_weights_alone_is_folded() -> None:
    """However large it is: torch's own exporter folds small values only."""
    weight = torch.randn(64, 64, 1, 5).numpy()
    kernel = ir.Value(name="weight", const_value=ir.tensor(weight), type=ir.TensorType(ir.DataType.FLOAT))
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 64, 1, 9]))
    turned = ir.node("Neg", [kernel])
    turned.outputs[0].name, turned.outputs[0].type = "turned", kernel.type
    conv = ir.node("Conv", [x, turned.outputs[0]])
    conv.outputs[0].name, conv.outputs[0].type = "y", x.type
    nodes, opsets = [turned, conv], {"": OPSET}
    graph = ir.Graph([x], conv.outputs, nodes=nodes, initializers=[kernel], opset_imports=opsets, name="g")
    fold(ir.Model(graph, ir_version=10))
    assert conv.inputs[1].is_initializer()
    assert (conv.inputs[1].const_value.numpy() == -weight).all()


@pytest.mark.parametrize("activation", [None, "silu"])
def test_convolution(activation: str | None) -> None:
    arguments: list[Any] = [
        torch.randn(2, 9, 5),
        torch.randn(3, 5, 4),
        torch.randn(3, 5),
        [False, True, False],
    ]
    want = reference.causal_conv1d(ConvCall(*arguments, activation))
    torch.testing.assert_close(lowering.causal_conv1d(*arguments, activation), want)
    arguments[2] = None
    want = reference.causal_conv1d(ConvCall(*arguments, activation))
    torch.testing.assert_close(lowering.causal_conv1d(*arguments, activation), want)


@pytest.mark.parametrize("rms", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms(rms: bool, dtype: torch.dtype) -> None:
    x, residual = torch.randn(2, 3, 4, dtype=dtype), torch.randn(2, 3, 4)
    for rest in ((residual, torch.randn(4), torch.randn(4)), (None, torch.randn(4), None)):
        arguments = (x, *rest, 1e-5, rms, True)
        torch.testing.assert_close(lowering.add_norm(*arguments), reference.add_norm(NormCall(*arguments)))


def test_first_residual_is_no_alias() -> None:
    """An operator's output may not be its input, in whatever terms."""
    x = torch.randn(2, 3, 4)
    stream = lowering.add_norm(x, None, torch.ones(4), None, 1e-5, True, True)[1]
    assert torch.equal(stream, x)
    assert stream.data_ptr() != x.data_ptr()


def test_stable_sort() -> None:
    x = torch.randint(0, 4, (3, 200))
    want = x.sort(dim=1, stable=True)
    got = lowering.stable_sort(x, dim=1)
    assert torch.equal(got[0], want.values)
    assert torch.equal(got[1], want.indices)
    with pytest.raises(NotImplementedError, match="whole numbers"):
        lowering.stable_sort(x.float())
