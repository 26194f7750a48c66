"""Whole models in 8 and 4 bits: what is replaced, how far outputs move, files and exports."""

import copy
import io

import pytest
import timm
import torch
from torch import nn

import vimzoo
from vimzoo.layers import QuantizedLinear
from vimzoo.quantization import KINDS

MODELS = {"test_vim": 64, "test_vmamba": 64, "test_mambair": 16}
MOVED = {"int8": 0.02, "int8-dynamic": 0.04, "int4": 0.5}
"""The most by which outputs may move, mean, as a share of their standard deviation."""


def built(name):
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    return model, torch.rand(2, 3, MODELS[name], MODELS[name])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_every_linear_layer_is_replaced_and_the_result_saved(name, kind):
    model, images = built(name)
    before = copy.deepcopy(model.state_dict())
    wanted = model(images)
    small = vimzoo.quantize(model, kind)
    linears = {n for n, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    assert linears == {n for n, layer in small.named_modules() if isinstance(layer, QuantizedLinear)}
    found = small(images)
    assert 0 < (found - wanted).abs().mean() / wanted.std() < MOVED[kind]
    assert all(torch.equal(model.state_dict()[n], t) for n, t in before.items()), (
        "the model is left as it was"
    )

    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    whole = io.BytesIO()
    torch.save(model.state_dict(), whole)
    assert len(file.getvalue()) < len(whole.getvalue())
    file.seek(0)
    again = vimzoo.quantize(timm.create_model(name), kind)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(again(images), found)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_exported_programs_keep_the_whole_numbers(kind):
    model, images = built("test_vim")
    small = vimzoo.quantize(model, kind)
    program = torch.export.export(small, (images,))
    kept = [t for t in program.state_dict.values() if t.dtype in (torch.int8, torch.uint8)]
    assert len(kept) == sum(isinstance(layer, QuantizedLinear) for layer in small.modules())
    with torch.enable_grad():  # without the kernels of inference, which round differently
        wanted = small(images) if kind != "int8-dynamic" else None
    if wanted is not None:
        torch.testing.assert_close(program.module()(images), wanted.detach(), rtol=1e-4, atol=1e-5)


def test_casts_leave_scales_alone_and_gradients_reach_adapters():
    model, images = built("test_vim")
    small = vimzoo.quantize(model, "int4")
    layer = next(layer for layer in small.modules() if isinstance(layer, QuantizedLinear))
    scale = layer.weight_scale.clone()
    assert torch.equal(
        copy.deepcopy(small).bfloat16().get_submodule("head").weight_scale, small.head.weight_scale
    )
    assert torch.equal(scale, layer.weight_scale)
    with torch.inference_mode():
        found = copy.deepcopy(small).bfloat16()(images.bfloat16())
        wanted = small(images)
    assert (found - wanted).abs().mean() < 0.05 * wanted.std()

    class Adapted(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer, self.more = layer, nn.Linear(layer.in_features, layer.out_features, bias=False)

        def forward(self, x):
            return self.layer(x) + self.more(x)

    small.blocks[0].mixer.in_proj = Adapted(small.blocks[0].mixer.in_proj)
    small(images).square().mean().backward()
    assert small.blocks[0].mixer.in_proj.more.weight.grad.abs().sum() > 0


def test_layers_are_left_out_by_name_and_mistakes_named():
    model, _ = built("test_vim")
    small = vimzoo.quantize(model, "int8", exclude=["head", "blocks.0.*"])
    assert type(small.head) is nn.Linear and type(small.blocks[0].mixer.in_proj) is nn.Linear
    assert type(small.blocks[1].mixer.in_proj) is QuantizedLinear
    with pytest.raises(ValueError, match="exclude: expected names or patterns of linear layers, got 'heads'"):
        vimzoo.quantize(model, "int8", exclude="heads")
    with pytest.raises(ValueError, match="kind: expected one of int8, int8-dynamic, int4, got 'fp8'"):
        vimzoo.quantize(model, "fp8")
    with pytest.raises(ValueError, match="model: expected linear layers, found none to quantize"):
        vimzoo.quantize(nn.Conv2d(3, 3, 1), "int8")
    with torch.no_grad():
        model.head.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"head\.weight: expected finite numbers"):
        vimzoo.quantize(model, "int8")
    assert type(vimzoo.quantize(nn.Linear(8, 8), "int8")) is QuantizedLinear
