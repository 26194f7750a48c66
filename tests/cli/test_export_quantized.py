"""Files of models with weights of 8 and 4 bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vimzoo import export as command
from vimzoo import exporting
from vimzoo.errors import UsageError
from vimzoo.exporting import BOUND, writing
from vimzoo.layers import QuantizedLinear

onnx = pytest.importorskip("onnx", reason="needs the extra vimzoo[export]")

OPTIONS = (
    {"bits": 8},
    {"bits": 8, "activations": "int8"},
    {"bits": 8, "group": 32, "symmetric": False},
    {"bits": 4},
    {"bits": 4, "group": 32},
    {"bits": 4, "group": 32, "symmetric": False},
)


class Products(nn.Module):
    """A layer of every kind side by side, on tokens and on their mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(QuantizedLinear(nn.Linear(48, 40), **options) for options in OPTIONS)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, L, 48) -> (B, L + 1, 40 * 6)``."""
        whole = torch.cat([layer(x) for layer in self.layers], -1)
        return torch.cat([whole, torch.cat([layer(x.mean(1)) for layer in self.layers], -1)[:, None]], 1)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return Products().eval().requires_grad_(False)


def tokens() -> Tensor:
    """With a token of zeros, and one of large numbers."""
    x = torch.randn(3, 7, 48, generator=torch.Generator().manual_seed(0))
    x[1, 2], x[2, 3] = 0, 1000 * x[2, 3]
    return x


def test_onnx(network: nn.Module, tmp_path: Path) -> None:
    """Equal in onnxruntime with its defaults, which change the numbers of other forms of these products."""
    path = tmp_path / "products.onnx"
    exporting.save_onnx(exporting.to_program(network, tokens()[:2]), path, {})
    onnx.checker.check_model(path, full_check=True)
    with torch.no_grad():
        want = network(tokens())
    difference = (exporting.load(path, "onnx")(tokens()) - want).abs() / want.abs().amax(-1, keepdim=True)
    assert difference.max() < BOUND
    kinds = {onnx.TensorProto.INT8: 3, onnx.TensorProto.UINT4: 3}
    stored = [tensor for tensor in onnx.load(path).graph.initializer if tensor.data_type in kinds]
    assert len(stored) == sum(kinds.values())
    sizes = {kind: len(t.raw_data) for kind in kinds for t in stored if t.data_type == kind}
    assert sizes == {onnx.TensorProto.INT8: 64 * 40, onnx.TensorProto.UINT4: 64 * 40 // 2}


@pytest.mark.parametrize("form", ["pt2", "torchscript"])
def test_torch(form: str, network: nn.Module, tmp_path: Path) -> None:
    """One node of ours for each layer, with the same kernel."""
    path = tmp_path / "file"
    if form == "pt2":
        program = exporting.to_program(network, tokens()[:2])
        assert str(program.graph).count("vimzoo.quantized_linear") == 2 * len(network.layers)
        exporting.save_pt2(program, path, {})
    else:
        exporting.save_torchscript(network, path, {}, tokens()[:2])
    with torch.no_grad():
        assert torch.equal(exporting.load(path, form)(tokens()), network(tokens()))


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is named after the kind, and says it."""
    words = ["test_vim", "--random", "--quantize", "int8-dynamic", "--format", "torchscript"]
    assert command.main([*words, "--output", str(tmp_path)]) == 0
    path = tmp_path / "test_vim.int8-dynamic.ts"
    kept = {exporting.METADATA: ""}
    torch.jit.load(str(path), _extra_files=kept)
    assert json.loads(kept[exporting.METADATA])["quantize"] == "int8-dynamic"
    assert "largest difference" in capsys.readouterr().out


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="--quantize int3: expected one of int8, int8-dynamic, int4"):
        exporting.export("test_vim", random=True, quantize="int3")
    with pytest.raises(UsageError, match="--quantize int4: model: expected linear layers, found none"):
        writing.quantized(nn.Conv2d(1, 1, 1), "int4", [])
