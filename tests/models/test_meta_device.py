"""Models made on the meta device answer as others once they have memory and weights."""

import copy

import pytest
import timm
import torch
from model_cases import MODELS, built
from timm.models._manipulate import reinit_non_persistent_buffers
from torch import nn

import vimzoo  # noqa: F401
from vimzoo.layers.buffers import DerivedBuffers
from vimzoo.models.registry import family_of


def made_on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        model = MODELS[name][0]().eval()
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    return model


def spoilt(model: nn.Module) -> nn.Module:
    """``to_empty`` may give memory that happens to be right."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    return model


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_weights_alone_make_a_model_of_the_meta_device_equal(name: str, assign: bool) -> None:
    model, images = built(name)
    other = made_on_meta(name)
    if not assign:
        spoilt(other.to_empty(device="cpu"))
    other.load_state_dict(model.state_dict(), assign=assign)
    for label, buffer in model.named_buffers():
        assert torch.equal(other.get_buffer(label), buffer), label
    assert torch.equal(other(images), model(images))


@pytest.mark.parametrize("name", sorted(name for name in timm.list_models("test_*") if family_of(name)))
def test_every_registered_model_is_made_where_timm_is_told(name: str) -> None:
    model = timm.create_model(name, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.float64)}


@pytest.mark.parametrize("name", ["test_unet", "test_vm_unet", "test_u_mamba", "test_swin_umamba"])
def test_models_without_maps_to_choose_from_say_so(name: str) -> None:
    with pytest.raises(ValueError, match=f"features_only: expected a classifier, {name} has no such maps"):
        timm.create_model(name, features_only=True)


@pytest.mark.parametrize("name", ["mambair", "v2"])
def test_inside_another_module(name: str) -> None:
    model, images = built(name)
    whole = nn.Sequential(made_on_meta(name)).to_empty(device="cpu")
    whole.load_state_dict({f"0.{key}": value for key, value in model.state_dict().items()})
    assert torch.equal(whole(images), model(images))


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights_after_the_meta_device(name: str) -> None:
    """The same seed does not give the same numbers, but every tensor is written, as timm expects."""
    model = spoilt(made_on_meta(name).to_empty(device="cpu"))
    model.init_weights()
    reinit_non_persistent_buffers(model)
    assert all(tensor.isfinite().all() for tensor in (*model.parameters(), *model.buffers()))
    assert model(built(name)[1]).isfinite().all()


@pytest.mark.parametrize("name", ["mambair", "v2"])
def test_timms_convention_restores_every_buffer_that_no_checkpoint_holds(name: str) -> None:
    model, _ = built(name)
    want = copy.deepcopy(dict(model.named_buffers()))
    for buffer in model.buffers():
        buffer.zero_()
    found = reinit_non_persistent_buffers(model)
    assert len(found) == sum(isinstance(module, DerivedBuffers) for module in model.modules())
    for label, buffer in model.named_buffers():
        assert torch.equal(buffer, want[label]), label


def test_a_move_keeps_a_mean_that_was_set() -> None:
    model = MODELS["mambair"][0]()
    model.mean.fill_(0.25)
    assert (model.to(torch.bfloat16).mean == 0.25).all()
