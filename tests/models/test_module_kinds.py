"""Layers are what their class says: quantisers, adapters and counters choose them by type and put others in place."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_cases import MODELS, built
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.overrides import TorchFunctionMode

from vimzoo.layers import SS2D, apply_linear
from vimzoo.layers import linear as linear_module
from vimzoo.layers.linear import with_fast_linears

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def layers_of(model: nn.Module, *kinds: type[nn.Module]) -> dict[str, nn.Module]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}


@pytest.mark.parametrize("name", MODELS)
def test_a_layer_that_says_it_is_torchs_is(name: str) -> None:
    """A subclass with another input layout, or that lookups by exact type miss, is not."""
    for label, layer in built(name)[0].named_modules():
        theirs = [
            base
            for base in type(layer).__mro__
            if base.__module__.startswith("torch.nn") and base is not nn.Module and base not in CONTAINERS
        ]
        assert not theirs or type(layer) is theirs[0], f"{label} is a {type(layer)}"


class Replaced(nn.Module):
    """What adapters put in a layer's place: it has the layer inside, and passes on what the layer returns."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = layer
        self.inputs: list[Tensor] = []

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias

    def forward(self, x: Tensor) -> Tensor:
        self.inputs.append(x)
        return self.base_layer(x)


@pytest.mark.parametrize("name", MODELS)
def test_what_replaces_a_layer_is_called(name: str) -> None:
    model, images = built(name)
    want = model(images)
    layers = layers_of(model, nn.Linear, nn.Conv2d)
    for label, layer in layers.items():
        model.set_submodule(label, Replaced(layer))
    torch.testing.assert_close(model(images), want, rtol=1e-5, atol=1e-5)
    for label, layer in layers.items():
        replaced = model.get_submodule(label)
        assert replaced.inputs, f"{label} was not called"
        for given in replaced.inputs:
            channels = given.shape[-1] if isinstance(layer, nn.Linear) else given.shape[1]
            wanted = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
            assert channels == wanted and (given.dim() == 4 or isinstance(layer, nn.Linear)), label


@pytest.mark.parametrize("name", MODELS)
def test_hooks_of_layers_run(name: str) -> None:
    model, images = built(name)
    layers = layers_of(model, nn.Linear, nn.Conv2d)
    called: set[str] = set()
    for label, layer in layers.items():
        layer.register_forward_hook(lambda *_, label=label: called.add(label))
    model(images)
    assert called == set(layers)


@pytest.mark.filterwarnings("ignore:torch")
@pytest.mark.parametrize("name", MODELS)
def test_dynamic_quantisation_reaches_every_linear_layer(name: str) -> None:
    quantization = pytest.importorskip("torch.ao.quantization")
    model, images = built(name)
    quantised = quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    for label in layers_of(model, nn.Linear):
        assert "quantized" in type(quantised.get_submodule(label)).__module__, label
    want, got = model(images), quantised(images)
    assert not torch.equal(got, want)
    spread = (want.max() - want.min()).item()
    # v2 routes tokens by a product of 8 bits, so that some go elsewhere
    assert (got - want).abs().mean().item() < (0.05 if name.startswith("v2") else 0.02) * spread


def test_a_parametrization_and_a_mask_are_in_force() -> None:
    layer, x = nn.Linear(8, 8), torch.randn(4, 8)
    prune.l1_unstructured(layer, "weight", 0.5)
    with torch.no_grad():
        layer.weight_orig.mul_(2.0)  # the mask is applied anew at each call
    want = nn.functional.linear(x, layer.weight_orig * layer.weight_mask, layer.bias)
    torch.testing.assert_close(apply_linear(layer, x), want)

    class Half(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight / 2

    layer = nn.Linear(8, 8)
    want = nn.functional.linear(x, layer.weight / 2, layer.bias)
    parametrize.register_parametrization(layer, "weight", Half())
    torch.testing.assert_close(apply_linear(layer, x), want)


def test_a_replaced_forward_and_global_hooks_are_called() -> None:
    layer, x = nn.Linear(8, 4), torch.randn(2, 8)
    layer.forward = lambda x: torch.zeros(2, 4)
    assert apply_linear(layer, x).abs().max() == 0
    seen: list[nn.Module] = []
    plain = nn.Linear(8, 4)
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        apply_linear(plain, x)
    finally:
        handle.remove()
    assert seen == [plain]


@pytest.mark.parametrize("name", MODELS)
def test_what_watches_torchs_functions_sees_every_layer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mode of torch functions, and a profiler that replaces ``F.linear``; a default device is no such mode."""
    model, images = built(name)
    layers = len(layers_of(model, nn.Linear))
    products: list[Any] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            products.extend([func] if func is F.linear else [])
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Watch():
        model(images)
    assert len(products) >= layers
    with torch.device("cpu"):
        assert not linear_module.calls_are_watched()
    products.clear()
    linear = F.linear
    monkeypatch.setattr(F, "linear", lambda *args: products.append(args) or linear(*args))
    with torch.no_grad():
        model(images)
    assert len(products) >= layers


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")
@pytest.mark.parametrize("name", ["vim", "vmamba", "mambair"])
def test_plain_linear_layers_still_take_the_fast_product(name: str) -> None:
    model, images = built(name)
    with torch.no_grad(), torch.profiler.profile() as profile:
        model(images)
    products = sum(
        event.count for event in profile.key_averages() if event.key == "mkldnn::_linear_pointwise"
    )
    assert products >= len(layers_of(model, nn.Linear)) - 1  # the classifier is timm's


def test_a_copy_for_torchscript_has_the_same_parameters_and_the_fast_product() -> None:
    model, images = built("vmamba")
    scripted = torch.jit.script(with_fast_linears(model))
    assert all(type(layer) is nn.Linear for layer in layers_of(model, nn.Linear).values())
    assert list(scripted.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(scripted(images), model(images), rtol=1e-5, atol=1e-5)
    assert "vimzoo::linear" in str(scripted.inlined_graph)
    assert "aten::linear" not in str(torch.jit.script(with_fast_linears(SS2D(8))).inlined_graph)
