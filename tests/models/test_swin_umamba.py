"""Swin-UMamba: sizes, heads of several resolutions, files, and arguments that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from vimzoo import models
from vimzoo.compat import swin_umamba
from vimzoo.models import CheckpointError
from vimzoo.models.weights.loading import load_into

NAMES = ("test_swin_umamba", "test_swin_umamba_d")
SIDES = {
    "test_swin_umamba": [(40, 72), (20, 36), (10, 18), (5, 9)],
    "test_swin_umamba_d": [(40, 72), (10, 18), (5, 9)],
}


@pytest.mark.parametrize("name", NAMES)
def test_outputs_of_several_resolutions(name: str) -> None:
    model: Any = timm.create_model(name, num_classes=3)
    frozen = {key for key, value in model.named_parameters() if not value.requires_grad}
    assert frozen and all(key.startswith("side_heads.") for key in frozen)
    images = torch.randn(2, 3, 40, 72)
    assert model(images).shape == (2, 3, 40, 72)
    model.set_deep_supervision()
    assert [tuple(y.shape[2:]) for y in model(images)] == SIDES[name]
    sum(y.square().mean() for y in model(images)).backward()
    unmoved = [key for key, value in model.named_parameters() if value.grad is None]
    assert not unmoved
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(images), model.levels(images)[0])
        lacking = [-side % model.multiple_of for side in (40, 72)]
        padded = torch.nn.functional.pad(images, (0, lacking[1], 0, lacking[0]))
        assert torch.equal(model(images), model(padded)[..., :40, :72])
    groups = timm.models.group_parameters(model, model.group_matcher())
    assert {n for names in groups.values() for n in names} == {n for n, _ in model.named_parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_nnunet(name: str, tmp_path: Path) -> None:
    """The authors' trainer saves more than weights, after torch.compile under other names."""
    model: Any = timm.create_model(name).eval()
    state = {f"_orig_mod.{key}": value for key, value in swin_umamba.official_state_dict(model).items()}
    content = {
        "network_weights": state, "optimizer_state": {"state": {0: {"step": torch.ones(1)}}, "param_groups": []},
        "grad_scaler_state": None, "current_epoch": 100, "trainer_name": "nnUNetTrainerSwinUMamba",
    }  # fmt: skip
    torch.save(content, tmp_path / "checkpoint_final.pth")
    other: Any = timm.create_model(name).eval()
    load_into(other, tmp_path / "checkpoint_final.pth", other.filter_fn)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(image), other(image))


def test_encoders_of_other_widths_are_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vmamba").state_dict(), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="expected a VMamba of the first release with these widths"):
        models.SwinUMamba(depths=(1, 1), dims=8).load_encoder(tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"feat_size": [32, 64, 128, 256, 512]}, "feat_size="),
        ({"hidden_size": 512}, "hidden_size=512"),
        ({"spatial_dims": 3}, "spatial_dims=3: expected 2"),
        ({"norm_name": "group"}, "norm='group': expected one of instance, batch"),
        ({"out_chans": 0}, "num_classes=0: expected at least 1"),
    ],
)
def test_arguments_of_the_authors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        swin_umamba.SwinUMamba(**arguments)


@pytest.mark.parametrize(
    ("encoder", "decoder", "message"),
    [
        ({}, {}, "no num_classes"),
        ({"width": 3}, {"num_classes": 2}, "width; expected in_chans"),
        ({"dims": 8}, {"num_classes": 2}, r"features_per_stage=\[96, .*: expected \[8, 16, 32, 64\]"),
    ],
)
def test_arguments_of_the_authors_d(encoder: dict, decoder: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        swin_umamba.SwinUMambaD(encoder, decoder)
