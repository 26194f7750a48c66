"""Class activation maps read the right tokens at their right places; receptive fields have the right extent."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from vimzoo.explain import cam_arguments, receptive_field
from vimzoo.layers import BiMamba
from vimzoo.models.registry import FAMILIES
from vimzoo.models.tokens import CLS_TOKENS, insert_cls
from vimzoo.models.vim import Vim


@pytest.mark.parametrize("placement", CLS_TOKENS)
def test_patches_of_a_vim_are_at_their_places(placement: str) -> None:
    """Wherever class tokens are, and for images that are not square."""
    model = Vim(img_size=(32, 48), patch_size=8, embed_dim=8, depth=1, num_classes=3, cls_token=placement)
    _, to_map = cam_arguments(model)
    patches = torch.arange(24.0).reshape(1, 24, 1)
    tokens = patches
    if placement != "none":
        tokens = insert_cls(patches, torch.full((1, CLS_TOKENS[placement], 1), -1.0), placement)
    assert torch.equal(to_map(tokens), torch.arange(24.0).reshape(1, 1, 4, 6))


def test_other_image_sizes() -> None:
    model = timm.create_model("test_vim", num_classes=3)
    tokens = torch.zeros(1, 25, 1)  # 96 x 64 pixels
    with pytest.raises(
        ValueError, match=r"`image_size`: expected images of 4 x 4 patches \(17 tokens\), got 25"
    ):
        cam_arguments(model).reshape_transform(tokens)
    assert cam_arguments(model, (96, 64)).reshape_transform(tokens).shape == (1, 1, 6, 4)


def grad_cam(model: nn.Module, images: Tensor, chosen: int) -> Tensor:
    """Selvaraju et al. 2017, equations 1 and 2, without the last ReLU."""
    (layer,), to_map = cam_arguments(model)
    kept: list[Tensor] = []
    with layer.register_forward_hook(lambda _, __, out: kept.append(out)):
        score = model(images)[:, chosen].sum()
    gradient = to_map(torch.autograd.grad(score, kept[0])[0])
    return (gradient.mean((2, 3), keepdim=True) * to_map(kept[0])).sum(1)


def test_of_a_vmamba_it_is_the_class_activation_map() -> None:
    """Weights of the classifier times the last map, as defined by Zhou et al. 2016."""
    torch.manual_seed(0)
    model = timm.create_model("test_vmamba").eval()
    images = torch.randn(2, 3, 64, 96)
    features = model.forward_features(images)
    expected = features @ model.get_classifier().weight[7] / features[0, ..., 0].numel()
    torch.testing.assert_close(grad_cam(model, images, 7), expected)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_every_patch_of_a_vim_counts(pool: str) -> None:
    """The score depends on all patches at the chosen layer, also where a class token alone is classified."""
    torch.manual_seed(0)
    model = timm.create_model("test_vim", global_pool=pool).eval()
    found = grad_cam(model, torch.randn(1, 3, 64, 64), 7)
    assert found.shape == (1, 4, 4) and (found != 0).all()


def test_models_without_classes_and_others_are_refused() -> None:
    assert {name for name, family in FAMILIES.items() if family.cam is None} == {
        "FusionMamba",
        "MambaIR",
        "Swin-UMamba",
        "TimeMachine",
        "U-Mamba",
        "UNet",
        "VM-UNet",
        "VideoMamba",
    }
    with pytest.raises(ValueError, match=r"expected a classifier, got MambaIR; .*receptive_field"):
        cam_arguments(timm.create_model("test_mambair"))
    with pytest.raises(ValueError, match="expected a classifier of vimzoo, got Conv2d"):
        cam_arguments(nn.Conv2d(3, 3, 3))
    with pytest.raises(ValueError, match="expected a whole model of the family Vim, got BiMamba"):
        cam_arguments(BiMamba(8))


def test_field_of_a_convolution() -> None:
    """Three by three around the centre: the sum of the absolute weights of one output channel, by hand."""
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 1, 3, padding=1).eval()
    field = receptive_field(conv, torch.randn(4, 2, 9, 7))
    expected = torch.zeros(9, 7)
    expected[3:6, 2:5] = conv.weight[0].abs().sum(0)
    torch.testing.assert_close(field, expected)


@pytest.mark.parametrize(("name", "size"), [("test_vim", 64), ("test_vmamba", 64), ("test_mambair", 12)])
def test_field_of_a_state_space_model_is_the_whole_image(name: str, size: int) -> None:
    torch.manual_seed(0)
    field = receptive_field(timm.create_model(name).eval(), torch.rand(1, 3, size, size))
    assert field.shape == (size, size) and (field > 0).all()


def test_field_of_what_has_none() -> None:
    with pytest.raises(ValueError, match="expected a model in evaluation mode"):
        receptive_field(timm.create_model("test_vim"), torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"expected one that returns maps \(1, C, h, w\), got \(1, 6\)"):
        receptive_field(nn.Sequential(nn.Flatten(), nn.Linear(12, 6)).eval(), torch.rand(1, 3, 2, 2))


def test_deep_lift_is_refused_by_name() -> None:
    """Captum's classes enter a model by `apply`, with a function of their modules; other functions pass."""
    model = timm.create_model("test_vim")

    def register_hooks(module: nn.Module) -> None:
        raise AssertionError("entered")

    def count(module: nn.Module) -> None:
        visited.append(module)

    visited: list[nn.Module] = []
    for module in ("captum.attr._core.deep_lift", "captum.attr._core.layer.layer_deep_lift"):
        register_hooks.__module__ = module
        with pytest.raises(ValueError, match="captum's DeepLift has no rule for the selective scan"):
            model.blocks[0].mixer.ssm.apply(register_hooks)
    assert model.apply(count) is model and len(visited) == len(list(model.modules()))
