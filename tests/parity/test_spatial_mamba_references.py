"""Every recorded answer of Spatial-Mamba's official code: outputs, inner tensors, gradients, files."""

from pathlib import Path

import fill
import pytest
import timm
import torch
from staged_checks import FLOOR, TOTAL_TOLERANCE, check_gradients, check_model, heavy, outputs_of
from torch import nn

from vimzoo.compat import spatial_mamba
from vimzoo.layers import StateFusion

REFERENCES = Path(__file__).parent / "references" / "spatial_mamba"
ROUNDING = FLOOR * TOTAL_TOLERANCE  # gradients below FLOOR of the largest count by its measure
MODELS = ("spatial_mamba_tiny_224", "spatial_mamba_base_224", "spatial_mamba_hot_64x96")
REGISTERED = {"spatial_mamba_tiny_224": "spatial_mamba_tiny", "spatial_mamba_base_224": "spatial_mamba_base"}


def reference_of(name: str) -> dict:
    return fill.load(REFERENCES / f"{name}.json.gz")


def build(reference: dict) -> nn.Module:
    """The authors' constructor call, read off the reference, on our compatible constructors."""
    return eval(reference["build"], dict(vars(spatial_mamba)))


def record(model: nn.Module) -> dict[str, torch.Tensor]:
    """Fills a dict with inner tensors under the official module names while the model runs."""
    seen: dict[str, torch.Tensor] = {}

    def keep(label: str, module: nn.Module, channels_first: bool = False) -> None:
        def hook(_: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
            order = (0, 3, 1, 2) if channels_first else (0, 1, 2, 3)
            seen[label] = out.permute(order)
            seen[f"{label}:in"] = given[0].permute(order)

        module.register_forward_hook(hook)

    keep("patch_embed", model.patch_embed)
    for i, layer in enumerate(model.layers):
        for j, block in enumerate(layer.blocks):
            name = f"layers.{i}.blocks.{j}"
            keep(name, block)
            keep(f"{name}.self_attention", block.self_attention)
            keep(
                f"{name}.self_attention.state_fusion", block.self_attention.state_fusion, channels_first=True
            )
            keep(f"{name}.self_attention.out_norm", block.self_attention.out_norm)
        keep(f"layers.{i}.downsample", layer.downsample)
    return seen


@pytest.mark.parametrize("name", heavy(REFERENCES, "spatial_mamba_*"))
def test_model(name: str) -> None:
    check_model(reference_of(name), vars(spatial_mamba), record)


@pytest.mark.parametrize("case", range(6))
def test_fusion(case: int) -> None:
    """Also on maps of a single position or row, and the gradients."""
    want = reference_of("ops_state_fusion")["cases"][case]
    shape = want["shape"]
    fusion = StateFusion(shape[1])
    filters = [fill.example_input((shape[1], 1, 3, 3), 30 + i) / 3 for i in range(3)]
    fusion.load_state_dict({"weight": torch.stack(filters), "alpha": torch.tensor([0.9, -1.2, 0.7])})
    h = fill.example_input(shape, 33).requires_grad_()
    out = fusion(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert fill.mismatch(out, want["out"]) < 3e-5
    (out * fill.example_input(shape, 34)).sum().backward()
    found = {"h": h.grad, "alpha": fusion.alpha.grad}
    found |= dict(zip(("kernel_3", "kernel_3_1", "kernel_3_2"), fusion.weight.grad, strict=True))
    assert set(want["grads"]) == set(found)
    for label, gradient in found.items():
        assert fill.mismatch(gradient, want["grads"][label]) < 3e-5, label


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in REGISTERED])
def test_checkpoint_file_of_a_registered_model(name: str, tmp_path: Path) -> None:
    """The user's way: a training file as the authors save it, by timm's create_model."""
    reference = reference_of(name)
    counts = {key: torch.tensor(7) for key in reference["kept"]}
    state = fill.state_dict(reference) | counts
    torch.save({"model": state, "epoch": 299}, tmp_path / "checkpoint.pth")
    overlay = dict(file=str(tmp_path / "checkpoint.pth"))
    model = timm.create_model(REGISTERED[name], pretrained=True, pretrained_cfg_overlay=overlay).eval()
    with torch.no_grad():
        outputs = outputs_of(model(fill.model_input(reference)))
    assert fill.mismatch(outputs[0], reference["outputs"][0]) < 3e-5


def test_a_loaded_model_uses_the_filters_that_it_was_given() -> None:
    """Theirs keep those of the first evaluation."""
    reference = reference_of("spatial_mamba_micro_64")
    model = eval(reference["build"], dict(vars(spatial_mamba))).eval()
    images = fill.model_input(reference)
    with torch.no_grad():
        model(images)
        model.load_state_dict(fill.state_dict(reference), strict=False)
        assert fill.mismatch(model(images), reference["outputs"][0]) < 3e-5


def test_a_backbone_starts_from_a_classifier_and_gives_gradients_in_evaluation(tmp_path: Path) -> None:
    options = dict(dims=16, depths=(1, 1))
    classifier = spatial_mamba.SpatialMamba(**options)
    torch.save({"model": spatial_mamba.official_state_dict(classifier)}, tmp_path / "classifier.pth")
    backbone = spatial_mamba.Backbone_SpatialMamba((0, 1), str(tmp_path / "classifier.pth"), **options).eval()
    maps = backbone(torch.randn(1, 3, 45, 38))
    assert [tuple(m.shape) for m in maps] == [(1, 16, 12, 10), (1, 32, 6, 5)]
    sum(m.sum() for m in maps).backward()
    check_gradients(backbone, None)
    assert torch.equal(
        backbone.stages[1].blocks[0].mixer.fusion.weight, classifier.stages[1].blocks[0].mixer.fusion.weight
    )
