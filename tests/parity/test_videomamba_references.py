"""Every recorded answer of the official VideoMamba code, by the authors' calls: outputs, inner tensors, gradients."""

from pathlib import Path

import fill
import pytest
import timm
import torch
from test_vim_references import check_outputs, outputs_of
from test_vim_references import record as record_vim
from torch import nn

from vimzoo.compat import videomamba

REFERENCES = Path(__file__).parent / "references" / "videomamba"
INNER_TOLERANCE = 5e-5  # of the reference's standard deviation
GRADIENT_TOLERANCE = 1e-4  # relative, norms in float64
ROUNDING = 1e-6  # of the largest gradient norm
REGISTERED = {
    "videomamba_tiny_224": "videomamba_tiny_patch16_224",
    "videomamba_tiny_448": "videomamba_tiny_patch16_448",
    "videomamba_small_224": "videomamba_small_patch16_224",
    "videomamba_middle_224": "videomamba_middle_patch16_224",
    "videomamba_middle_576": "videomamba_middle_patch16_576",
}
QUICK = ("videomamba_tiny_224",)
NAMES = sorted(path.name.removesuffix(".json.gz") for path in REFERENCES.glob("*.json.gz"))
MODELS = [name for name in NAMES if not name.startswith("load_")]


def params(names: list[str]) -> list:
    assert names
    slow = {name for name in names if name.startswith("videomamba_") and name not in QUICK}
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in names]


def reference_of(name: str) -> dict:
    return fill.load(REFERENCES / f"{name}.json.gz")


def build(reference: dict) -> nn.Module:
    """The authors' constructor call, read off the reference, on our compatible constructors."""
    return eval(reference["build"], dict(vars(videomamba)))


def record(model: nn.Module) -> dict[str, torch.Tensor]:
    """Fills a dict with inner tensors under the official module names while the model runs."""
    return record_vim(model)


def check_gradients(outputs: list[torch.Tensor], module: nn.Module, reference: dict) -> None:
    if not (recorded := reference.get("grad_norm")):
        return
    sum((output * fill.example_input(output.shape, 7)).sum() for output in outputs).backward()
    found = videomamba.official_gradients(module)
    norms = {name: g.double().norm().item() for name, g in found.items()}
    assert set(norms) == set(recorded)
    floor = ROUNDING * max(recorded.values())
    for name, want in recorded.items():
        assert abs(norms[name] - want) <= GRADIENT_TOLERANCE * want + floor, name


@pytest.mark.parametrize("name", params(MODELS))
def test_model(name: str) -> None:
    reference = reference_of(name)
    model = build(reference).eval()
    model.load_state_dict(fill.state_dict(reference))
    assert sum(p.numel() for p in model.parameters()) == reference["num_params"]
    seen = record(model) if reference["intermediates"] else {}
    x = fill.model_input(reference)
    outputs = outputs_of(eval(reference.get("call", "m(x)"), {"m": model, "x": x}))
    check_outputs(outputs, reference)
    for label, want in reference["intermediates"].items():
        assert fill.mismatch(seen[label], want) < INNER_TOLERANCE, label
    check_gradients(outputs, model, reference)


@pytest.mark.parametrize("name", params(list(REGISTERED)))
def test_checkpoint_file_of_a_registered_model(name: str, tmp_path: Path) -> None:
    """The user's way: a file as the authors save it, by timm's create_model."""
    reference = reference_of(name)
    torch.save({"model": fill.state_dict(reference)}, tmp_path / "checkpoint.pth")
    overlay = dict(file=str(tmp_path / "checkpoint.pth"))
    model = timm.create_model(REGISTERED[name], pretrained=True, pretrained_cfg_overlay=overlay).eval()
    check_outputs([model(fill.model_input(reference))], reference)


def test_a_new_model_has_equal_steps_and_a_class_token_of_zero() -> None:
    torch.manual_seed(0)
    model = videomamba.image_sm.VisionMamba(img_size=32, embed_dim=64, depth=4)
    own = videomamba.official_state_dict(model)
    assert not own["cls_token"].any() and own["pos_embed"].std() == pytest.approx(0.02, rel=0.1)
    for i in range(4):
        mixer = {name: own[f"layers.{i}.mixer.{name}"] for name in ("dt_proj.bias", "dt_proj_b.bias")}
        assert not any(bias.any() for bias in mixer.values())
        assert own[f"layers.{i}.mixer.x_proj.weight"].std() == pytest.approx(0.02, rel=0.1)
        assert own[f"layers.{i}.mixer.out_proj.weight"].abs().max() <= 1 / (2 * 128**0.5)
    assert own["patch_embed.proj.weight"].abs().max() <= 1 / 768**0.5  # torch's default
