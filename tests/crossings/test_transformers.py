"""transformers' models on a backbone of ours: small, with random weights, saved and loaded again.

`make test-crossings` runs it where transformers is installed. Nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from vimzoo.models import save_for_hf

pytestmark = pytest.mark.filterwarnings("ignore")
NAME = "test_vmamba"
WIDTH = 32


def sizes(*names: str) -> dict[str, int]:
    return dict.fromkeys(names, WIDTH)


def built(kind: str, name: str = NAME, first: int = 0) -> Any:
    """A model whose normalisations have statistics, so that a reset shows."""
    library = pytest.importorskip("transformers")
    backbone = library.TimmBackboneConfig(backbone=name, out_indices=[0, 1, 2, 3][first:])
    channels = timm.create_model(name, features_only=True).feature_info.channels()
    torch.manual_seed(0)
    if kind == "DetrForObjectDetection":
        config = library.DetrConfig(
            backbone_config=backbone, encoder_layers=1, decoder_layers=1, num_queries=5, num_labels=3,
            encoder_attention_heads=2, decoder_attention_heads=2,
            **sizes("d_model", "encoder_ffn_dim", "decoder_ffn_dim"),
        )  # fmt: skip
    elif kind == "Mask2FormerForUniversalSegmentation":
        config = library.Mask2FormerConfig(
            backbone_config=backbone, encoder_layers=1, decoder_layers=1, num_attention_heads=2, num_queries=5,
            num_labels=3,
            **sizes("feature_size", "mask_feature_size", "hidden_dim", "encoder_feedforward_dim", "dim_feedforward"),
        )  # fmt: skip
    elif kind == "UperNetForSemanticSegmentation":
        config = library.UperNetConfig(
            backbone_config=backbone, auxiliary_channels=16, auxiliary_in_channels=channels[2], num_labels=3,
            **sizes("hidden_size"),
        )  # fmt: skip
    else:
        config = library.RTDetrConfig(
            backbone_config=backbone, encoder_in_channels=channels[first:], decoder_in_channels=[WIDTH] * 3,
            encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
            num_queries=5, num_denoising=0, num_labels=3,
            **sizes("d_model", "encoder_hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim"),
        )  # fmt: skip
    model = getattr(library, kind)(config).eval()
    for label, buffer in model.named_buffers():
        if label.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif label.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return model


def tensors(output: Any) -> list[torch.Tensor]:
    found = [x for x in output.to_tuple() if isinstance(x, torch.Tensor)]
    assert found and all(bool(x.isfinite().all()) for x in found)
    return found


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("Mask2FormerForUniversalSegmentation", 0),
        ("UperNetForSemanticSegmentation", 0),
        ("RTDetrForObjectDetection", 1),
    ],
)
@torch.no_grad()
def test_transformers_saved_and_loaded_is_equal(kind: str, first: int, tmp_path: Path) -> None:
    """Every tensor; outputs up to rounding, which depends on where a tensor is in memory."""
    model, images = built(kind, first=first), torch.rand(1, 3, 64, 64)
    model.save_pretrained(tmp_path)
    torch.manual_seed(1)
    again = type(model).from_pretrained(tmp_path).eval()
    state = again.state_dict()
    assert [k for k, v in model.state_dict().items() if not torch.equal(v, state[k])] == []
    for found, wanted in zip(tensors(again(images)), tensors(model(images)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_transformers_detr_is_complete_as_a_state_dict(tmp_path: Path) -> None:
    """`from_pretrained` renames the backbone's ``out_proj`` too and does not find it again."""
    model, images = built("DetrForObjectDetection", first=3), torch.rand(1, 3, 64, 64)
    torch.save(model.state_dict(), tmp_path / "detr.pt")
    again = type(model)(model.config).eval()
    again.load_state_dict(torch.load(tmp_path / "detr.pt"))
    for found, wanted in zip(tensors(again(images)), tensors(model(images)), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", ["test_vim", "test_vmamba"])
@torch.no_grad()
def test_transformers_takes_a_folder_as_a_backbone(name: str, tmp_path: Path) -> None:
    """With its weights: the maps are those of the model that was saved."""
    library = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model, images = timm.create_model(name, num_classes=2).eval(), torch.rand(1, 3, 64, 64)
    save_for_hf(model, tmp_path / "saved")
    backbone = library.TimmBackbone.from_pretrained(
        f"local-dir:{tmp_path / 'saved'}", out_indices=[0, 1]
    ).eval()
    wanted = model.forward_intermediates(images, indices=[0, 1], intermediates_only=True)
    for found, map_ in zip(backbone(images).feature_maps, wanted, strict=True):
        assert torch.equal(found, map_)
