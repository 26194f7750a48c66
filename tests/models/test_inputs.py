"""Networks of two images or of series, as timm and the loaders of files meet them."""

from pathlib import Path

import pytest
import timm
import torch

import vimzoo
from vimzoo.compat.official import official_state_dict
from vimzoo.models.counting import count_operations
from vimzoo.models.inputs import input_shapes

NAMES = ("test_multimodal_fusion_mamba", "test_spectral_fusion_mamba", "test_time_machine")


@pytest.mark.parametrize("name", NAMES)
def test_files_under_the_authors_names_load(name: str, tmp_path: Path) -> None:
    """Also those of a model that several GPUs trained."""
    torch.manual_seed(0)
    theirs, ours = timm.create_model(name), timm.create_model(name)
    named = official_state_dict(theirs)
    assert set(named) - set(theirs.state_dict())
    torch.save({f"module.{key}": value for key, value in named.items()}, tmp_path / "theirs.pth")
    vimzoo.load_checkpoint(ours, tmp_path / "theirs.pth")
    found = ours.state_dict()
    assert all(torch.equal(found[key], value) for key, value in theirs.state_dict().items())
    with pytest.raises(vimzoo.CheckpointError, match="does not fit"):
        vimzoo.load_checkpoint(timm.create_model("test_vim"), tmp_path / "theirs.pth")


@pytest.mark.parametrize("name", NAMES)
def test_timm_makes_no_classifier_of_them(name: str) -> None:
    assert timm.create_model(name, num_classes=0).num_classes == 0
    with pytest.raises(TypeError, match=r"num_classes=3: .* has no classes"):
        timm.create_model(name, num_classes=3)
    with pytest.raises(vimzoo.CheckpointError, match="no published weights"):
        timm.create_model(name, pretrained=True)


def test_operations_of_two_images_by_hand() -> None:
    """Doubling both sides of both images multiplies by four what does not depend on the number of bands alone."""
    model = timm.create_model("test_spectral_fusion_mamba")
    once, twice = (
        count_operations(model, *input_shapes(model, size).values())[0] for size in ((4, 4), (8, 8))
    )
    gate = count_operations(model.band_gate, (3, 4, 4))[0]
    assert twice - gate == 4 * (once - gate) > 0
