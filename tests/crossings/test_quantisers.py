"""torchao on one model of each family: what is quantised, by how much outputs move, graphs and files of the result.

`make test-crossings` runs it where torchao is installed.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import vimzoo  # noqa: F401  registers the models

pytestmark = pytest.mark.filterwarnings("ignore")
MODELS = {"test_vim": 64, "test_vmamba": 64, "test_mambair": 16}
"""The side of their images."""
KINDS = {"int8": 0.05, "int8 dynamic": 0.1, "float8": 0.2, "int4": 1.0}
"""The most by which an output may move, as a share of the outputs' standard deviation: mean over outputs."""


def configuration(kind: str) -> Any:
    quantization = pytest.importorskip("torchao.quantization")

    made: dict[str, Callable[[], Any]] = {
        "int8": quantization.Int8WeightOnlyConfig,
        "int8 dynamic": quantization.Int8DynamicActivationInt8WeightConfig,
        "float8": quantization.Float8WeightOnlyConfig,
        "int4": lambda: quantization.IntxWeightOnlyConfig(torch.int4),
    }
    return made[kind]()


def built(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return timm.create_model(name).eval(), torch.rand(2, 3, MODELS[name], MODELS[name])


@torch.enable_grad()
def by_torch(model: nn.Module, images: Tensor) -> Tensor:
    """Outputs without the kernels of inference, which round differently: a rounded activation may take another step."""
    return model(images).detach()


def moved(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found - wanted).abs().mean() / wanted.std())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_torchao_quantises_every_linear_layer(name: str, kind: str) -> None:
    """And nothing else; the result is stored in a file, and exported, with equal outputs."""
    config = configuration(kind)
    from torchao.quantization import quantize_

    model, images = built(name)
    wanted = model(images)
    linear = {n for n, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    quantize_(model, config)
    replaced = {n for n, p in model.named_parameters() if type(p) is not nn.Parameter}
    assert replaced == {f"{n}.weight" for n in linear}
    found = model(images)
    assert 0 < moved(found, wanted) < KINDS[kind]

    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    again, _ = built(name)
    again.load_state_dict(torch.load(file, weights_only=True), assign=True)
    assert torch.equal(again(images), found)

    program = io.BytesIO()
    torch.export.save(torch.export.export(model, (images,)), program)
    program.seek(0)
    torch.testing.assert_close(torch.export.load(program).module()(images), by_torch(model, images))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_torchao_compiles_in_one_graph(name: str) -> None:
    """Without inductor, which rounds the activations' scales differently."""
    config = configuration("int8 dynamic")
    from torchao.quantization import quantize_

    model, images = built(name)
    quantize_(model, config)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), by_torch(model, images))


@torch.no_grad()
def test_torchao_with_inductor() -> None:
    config = configuration("int8 dynamic")
    from torchao.quantization import quantize_

    model, images = built("test_vim")
    quantize_(model, config)
    torch._dynamo.reset()
    assert moved(torch.compile(model, fullgraph=True)(images), model(images)) < 0.02


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_torchao_pt2e_quantises_linear_layers_and_convolutions(name: str) -> None:
    """Of an exported program, for the compiler on x86-64: every weight is stored with 8 bits."""
    pt2e = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e")
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    model, images = built(name)
    wanted = model(images)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = pt2e.prepare_pt2e(torch.export.export(model, (images,)).module(), quantizer)
    prepared(images)
    quantised = pt2e.convert_pt2e(prepared)
    found = quantised(images)
    assert 0 < moved(found, wanted) < 0.05
    weights = [x for x in quantised.state_dict().values() if x.dtype is torch.int8 and x.dim() > 1]
    assert len(weights) == len(layers)

    file = io.BytesIO()
    torch.export.save(torch.export.export(quantised, (images,)), file)
    file.seek(0)
    torch.testing.assert_close(torch.export.load(file).module()(images), found)
