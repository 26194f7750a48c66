"""Every recorded answer of MILA's official code: outputs, inner tensors, gradients, files."""

from pathlib import Path

import fill
import pytest
import timm
import torch
from staged_checks import FLOOR, TOTAL_TOLERANCE, check_model, heavy, is_published
from torch import Tensor, nn

from vimzoo.compat import mila

REFERENCES = Path(__file__).parent / "references" / "mila"
LAST_STAGE = r"^(layers\.3|norm|head)"
"""Gradients that are compared in published sizes. The recorded ones before the last stage are not the derivatives of
the recorded outputs: they are of one image, where torch's gradients of a batch norm before tokens are wrong (see
findings/torch_batch_norm_gradient_of_one_image.sh). The small references, of several images, are compared whole."""
ROUNDING = FLOOR * TOTAL_TOLERANCE  # gradients below FLOOR of the largest count by its measure
MODELS = ("mila_tiny_224", "mila_base_224", "mila_hot_96")
REGISTERED = {"mila_tiny_224": "mila_tiny", "mila_base_224": "mila_base"}


def reference_of(name: str) -> dict:
    return fill.load(REFERENCES / f"{name}.json.gz")


def gradients_of(name: str) -> str:
    """Pattern of the names of the gradients that are compared."""
    return LAST_STAGE if is_published(name) else ""


def build(reference: dict) -> nn.Module:
    """The authors' constructor call, read off the reference, on our compatible constructors."""
    return eval(reference["build"], scope_of(reference))


def scope_of(reference: dict) -> dict:
    """The names in the constructor's call; classifier and backbone have the same in two files of theirs."""
    dense = "out_indices" in reference["build"]
    return {"MLLA": mila.Backbone_MLLA if dense else mila.MLLA}


def record(model: nn.Module) -> dict[str, Tensor]:
    """Fills a dict with inner tensors under the official module names while the model runs; maps are tokens there."""
    seen: dict[str, Tensor] = {}

    def keep(label: str, module: nn.Module, channels_first: bool = False) -> None:
        def hook(_: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
            seen[label] = out if channels_first else out.flatten(1, 2)
            seen[f"{label}:in"] = given[0].flatten(1, 2)

        module.register_forward_hook(hook)

    keep("patch_embed", model.patch_embed)
    for i, layer in enumerate(model.layers):
        for j, block in enumerate(layer.blocks):
            name = f"layers.{i}.blocks.{j}"
            keep(name, block)
            keep(f"{name}.attn", block.attn)
            keep(f"{name}.attn.lepe", block.attn.lepe, channels_first=True)
            keep(f"{name}.out_proj", block.out_proj)
        keep(f"layers.{i}.downsample", layer.downsample)
    return seen


@pytest.mark.parametrize("name", heavy(REFERENCES, "mila_*"))
def test_model(name: str) -> None:
    reference = reference_of(name)
    check_model(reference, scope_of(reference), record, gradients_of(name))


@pytest.mark.slow
def test_the_gradient_before_the_last_stage_is_the_derivative() -> None:
    """Of a published size, in float64, along the gradient of the norm that the last stage begins with."""
    reference = reference_of("mila_tiny_hot_96")
    model = eval(reference["build"], scope_of(reference)).eval()
    model.load_state_dict(fill.state_dict(reference), strict=False)
    model, images = model.double(), fill.model_input(reference).double()

    def score() -> Tensor:
        output = model(images)
        return (output * fill.example_input(output.shape, 7).double()).sum()

    score().backward()
    bias = model.stages[3].downsample.reduce.norm.bias
    size = bias.grad.norm()
    with torch.no_grad():
        step, middle = 1e-4 * bias.grad / size, bias.clone()
        above, below = (bias.copy_(middle + sign * step) is not None and score() for sign in (1, -1))
    assert ((above - below) / 2e-4).item() == pytest.approx(size.item(), rel=1e-6)
    recorded = reference["grad_norm"]["layers.2.downsample.conv.2.norm.bias"]
    assert recorded < 0.5 * size.item()


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in REGISTERED])
def test_checkpoint_file_of_a_registered_model(name: str, tmp_path: Path) -> None:
    """The user's way: a file as the authors save it, with tables of angles, by timm's create_model."""
    reference = reference_of(name)
    stored = {
        key: torch.zeros(shape, dtype=torch.float32 if shape else torch.int64)
        for key, shape in reference["kept"].items()
    }
    torch.save({"model": fill.state_dict(reference) | stored, "epoch": 299}, tmp_path / "checkpoint.pth")
    overlay = dict(file=str(tmp_path / "checkpoint.pth"))
    model = timm.create_model(REGISTERED[name], pretrained=True, pretrained_cfg_overlay=overlay).eval()
    with torch.no_grad():
        assert fill.mismatch(model(fill.model_input(reference)), reference["outputs"][0]) < 3e-5


def test_files_of_models_with_positions_and_without_a_head(tmp_path: Path) -> None:
    """Both ways through the authors' names, and to another image size."""
    reference = reference_of("mila_hot_nobias_ape")
    model = eval(reference["build"], scope_of(reference)).eval()
    state = fill.state_dict(reference)
    model.load_state_dict(state, strict=False)
    written = mila.official_state_dict(model)
    assert all(torch.equal(written[name], value) for name, value in state.items())
    torch.save({"model": written}, tmp_path / "file.pth")
    options = dict(depths=(1, 1), dims=32, num_heads=(4, 4), qk_bias=False, pos_embed=True, num_classes=0)
    overlay = dict(file=str(tmp_path / "file.pth"), num_classes=10)
    headless = timm.create_model(
        "test_mila", pretrained=True, pretrained_cfg_overlay=overlay, img_size=(64, 96), **options
    )
    assert headless.pos_embed.shape == (1, 32, 16, 24)
    assert headless(torch.randn(1, 3, 64, 96)).shape == (1, 64)


def test_a_backbone_takes_every_size() -> None:
    """Sides are padded to multiples of 4 as in the authors' code."""
    options = dict(embed_dim=16, depths=[1, 1], num_heads=[2, 4], out_indices=(0, 1))
    backbone = mila.Backbone_MLLA(**options).eval()
    assert [tuple(m.shape) for m in backbone(torch.randn(1, 3, 45, 38))] == [(1, 16, 12, 10), (1, 32, 6, 5)]
    with pytest.raises(TypeError, match="abacus"):
        mila.Backbone_MLLA(abacus=1)


@pytest.mark.parametrize("name", ["test_mila", "test_vmamba"])
def test_a_model_refuses_another_patch_size(name: str) -> None:
    with pytest.raises(ValueError, match="patch_size: expected 4, got 7"):
        timm.create_model(name).set_input_size(patch_size=7)
