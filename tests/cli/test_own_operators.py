"""Files for OpenVINO with our operators, run by ONNX's reference evaluator with PyTorch's meaning of each of them."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vimzoo
from vimzoo import exporting
from vimzoo.ops import reference
from vimzoo.ops.scan.call import ScanCall

onnx = pytest.importorskip("onnx")
ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnxscript")

from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx.reference.op_run import OpRun  # noqa: E402

from vimzoo.exporting.formats.onnx import translate  # noqa: E402
from vimzoo.exporting.lowering import WITH_OWN_OPERATORS  # noqa: E402
from vimzoo.exporting.own_operators import use_own_operators  # noqa: E402


def part(x: Any, first: int, channels: int) -> Tensor:
    """The channels that an operator reads of a tensor."""
    return torch.tensor(x)[..., first : first + channels]


def given(*arrays: Any) -> list[Any]:
    return [None if array is None else torch.tensor(array) for array in arrays]


class CausalConv1d(OpRun):
    op_domain = "vimzoo"

    def _run(self, x: Any, weight: Any, bias: Any = None, reverse=None, silu=None, first=0) -> Any:  # type: ignore[no-untyped-def]
        kernel, shift = given(weight, bias)
        y = vimzoo.ops.causal_conv1d(
            part(x, first, kernel.shape[1]),
            kernel,
            shift,
            "silu" if silu else None,
            reverse=list(map(bool, reverse)),
        )
        return (y.permute(2, 0, 1, 3).contiguous().numpy(),)


class Depthwise(OpRun):
    op_domain = "vimzoo"

    def _run(self, x: Any, weight: Any, bias: Any = None, silu=None, dilation=None, first=0) -> Any:  # type: ignore[no-untyped-def]
        kernel, shift = given(weight, bias)
        maps = part(x, first, len(kernel)).permute(0, 3, 1, 2)
        y = F.conv2d(maps, kernel, shift, 1, dilation, dilation, len(kernel)).permute(0, 2, 3, 1)
        return ((F.silu(y) if silu else y).contiguous().numpy(),)


class Norm(OpRun):
    op_domain = "vimzoo"

    def _run(self, x: Any, weight: Any, bias: Any = None, gate: Any = None, eps=None, first=0) -> Any:  # type: ignore[no-untyped-def]
        values, scale, shift = given(x, weight, bias)
        y = F.layer_norm(values, scale.shape, scale, shift, eps)
        y = y if gate is None else y * F.silu(part(gate, first, len(scale)))
        return (y.numpy(),)


class ScanPaths(OpRun):
    op_domain = "vimzoo"

    def _run(self, *inputs: Any, codes=None, merge=None, planes=0, first=0) -> Any:  # type: ignore[no-untyped-def]
        x, rows, rates, weight, bias, height, width, skip, z, table = (*inputs, None, None, None)[:10]
        x, rows, rates, weight, bias, skip, table = given(x, rows, rates, weight, bias, skip, table)
        if planes:
            x, rows = x.permute(1, 2, 0, 3), rows.permute(1, 2, 0, 3)
        gate = None if z is None else part(z, first, x.shape[-1])
        steps = (rates.transpose(1, 2), weight.transpose(1, 2), bias, skip, gate)
        call = ScanCall(x, rows, *steps, list(codes), table, int(height), int(width), bool(merge))
        return (reference.scan_paths(call).contiguous().numpy(),)


def lowered(network: nn.Module, example: Tensor, dynamic_size: bool = True) -> Any:
    """The network as the format ``openvino`` gives it to OpenVINO."""
    program = exporting.to_program(network, example, dynamic_size=dynamic_size)
    model = translate(program, ("images",), WITH_OWN_OPERATORS).model
    use_own_operators(model)
    return model


def run(model: Any, images: Tensor) -> Tensor:
    evaluator = ReferenceEvaluator(ir.to_proto(model), new_ops=[CausalConv1d, Depthwise, Norm, ScanPaths])
    return torch.from_numpy(evaluator.run(None, {"images": images.numpy()})[0])


def kinds(model: Any) -> dict[str, int]:
    """How many nodes of each kind a graph has."""
    found: dict[str, int] = {}
    for node in model.graph:
        found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


@pytest.mark.parametrize(("name", "px"), [("test_vim", 64), ("test_vmamba", 64), ("test_mambair", 16)])
def test_a_model_with_our_operators_is_the_model(name: str, px: int) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    model = lowered(network, torch.rand(2, 3, px, px), dynamic_size=name != "test_vim")
    x = torch.rand(1, 3, px, px)
    want = network(x)
    assert (run(model, x) - want).abs().max() < exporting.BOUND * want.std()


def test_what_our_operators_replace() -> None:
    """Norms, gates, depthwise convolutions, SiLU, and every transposition but those around dense convolutions."""
    torch.manual_seed(0)
    of_vim = kinds(lowered(timm.create_model("test_vim"), torch.rand(2, 3, 64, 64), dynamic_size=False))
    assert of_vim["CausalConv1d"] == of_vim["ScanPaths"] and "Split" not in of_vim
    found = kinds(lowered(timm.create_model("test_mambair"), torch.rand(2, 3, 16, 16)))
    assert not {"LayerNormalization", "Split"} & set(found)
    assert found["Sigmoid"] == 2  # of channel attention
    assert (found["Depthwise"], found["Norm"], found["ScanPaths"]) == (6, 8, 2)
    assert found["Conv"] == 5 and found["Transpose"] <= 2 * found["Conv"] + 4  # and parameters'


class Traps(nn.Module):
    """What looks like one of our operators and is not, or is read by others too."""

    def __init__(self) -> None:
        super().__init__()
        self.strided = nn.Conv2d(6, 6, 3, 2, 1, groups=6)
        self.wide = nn.Conv2d(6, 6, 5, padding=2, groups=6)
        self.filters = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.dilated = nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6)
        self.mix = nn.Conv2d(6, 6, 1, bias=False)
        self.grouped = nn.Conv2d(6, 6, 1, groups=2)
        self.norm, self.two_axes = nn.LayerNorm(6, eps=1e-3), nn.LayerNorm((8, 6))
        self.bare = nn.LayerNorm(6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        read_twice = self.filters(x.permute(0, 3, 1, 2))
        maps = self.wide(F.silu(read_twice) + read_twice)
        maps = self.grouped(F.gelu(self.mix(F.silu(self.dilated(maps)))))
        last = maps.permute(0, 2, 3, 1)
        normed = self.norm(last)
        values, gates = torch.cat([normed, last, x], -1)[..., 2:14].chunk(2, -1)
        last = last + torch.cat([self.norm(x), x, last], 1)[:, 4:12]
        last = last + self.norm(last) * F.silu(gates.mean((1, 2), keepdim=True))  # a gate for all places
        last = normed * F.silu(gates) + self.bare(values) * F.silu(gates) + self.two_axes(last)
        return self.strided(F.relu(last.permute(0, 3, 1, 2)))


def test_what_only_looks_like_our_operators() -> None:
    torch.manual_seed(0)
    network = Traps().eval()
    model = lowered(network, torch.rand(2, 6, 8, 8), dynamic_size=False)
    x = torch.rand(1, 6, 8, 8)
    want = network(x)
    assert (run(model, x) - want).abs().max() < 1e-5
    found = kinds(model)
    assert (found["Depthwise"], found["Norm"], found["LayerNormalization"], found["Conv"]) == (1, 4, 1, 5)


class MovedBack(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).permute(0, 3, 1, 2).relu().permute(0, 2, 3, 1)


def test_a_map_that_is_the_output() -> None:
    torch.manual_seed(0)
    for last in (nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 4, 1), nn.ReLU(), nn.SiLU()):
        network: nn.Module = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), last).eval()
        x = torch.rand(2, 6, 5, 7)
        model = lowered(network, x)
        torch.testing.assert_close(run(model, x), network(x))
    network = MovedBack().eval()
    torch.testing.assert_close(run(lowered(network, x), x), network(x))
