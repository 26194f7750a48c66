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
from vimzoo.models import VideoMamba

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
    "videomamba_video_tiny_f8_224": "videomamba_tiny_patch16_f8_224.k400",
    "videomamba_video_middle_f8_224": "videomamba_middle_patch16_f8_224.k400_mask_ft",
    "videomamba_video_tiny_f16_288_ssv2": "videomamba_tiny_patch16_f16_288.ssv2",
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
    seen = record_vim(model)
    if isinstance(model, VideoMamba):
        embed: nn.Module = model.patch_embed.proj
        embed.register_forward_hook(lambda *args: seen.__setitem__("raw", args[2]))
        model.norm.register_forward_hook(lambda *args: seen.update(patch_embed=seen["raw"]))
    return seen


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
    outputs = [output for output in outputs if output is not None]
    check_outputs(outputs, reference)
    for label, want in reference["intermediates"].items():
        assert fill.mismatch(seen[label], want) < INNER_TOLERANCE, label
    check_gradients(outputs, model, reference)


@pytest.mark.parametrize("name", params(list(REGISTERED)))
def test_checkpoint_file_of_a_registered_model(name: str, tmp_path: Path) -> None:
    """The user's way: a file as the authors save it, by timm's create_model."""
    reference = reference_of(name)
    state = fill.state_dict(reference)
    torch.save(state if "video_" in name else {"model": state}, tmp_path / "checkpoint.pth")
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


def checkpoint_of(reference: dict) -> dict:
    """The file that a loader was recorded with, in its wrapper."""
    state = {name: fill.fill(name, shape) for name, shape in reference["checkpoint"].items()}
    return {reference["wrapper"]: state} if reference["wrapper"] else state


def keep_own(model: nn.Module, reference: dict) -> None:
    """Fill the tensors that the loader left alone."""
    own = {name: fill.fill(f"own.{name}", shape) for name, shape in reference["params"].items()}
    model.load_state_dict(videomamba.official_state_dict(model) | own)


def check_loaded(model: nn.Module, reference: dict) -> None:
    found = videomamba.official_state_dict(model)
    for name, want in reference["transformed"].items():
        assert fill.mismatch(found[name], want) < 1e-6, name
    outputs = outputs_of(model.eval()(fill.model_input(reference)))
    check_outputs([output for output in outputs if output is not None], reference)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("load_video")])
def test_an_image_models_file_starts_a_model_of_clips(name: str, tmp_path: Path) -> None:
    """By the authors' function, and from a file, whose classifier has other classes."""
    reference = reference_of(name)
    model = build(reference)
    keep_own(model, reference)
    videomamba.video_sm.load_state_dict(model, checkpoint_of(reference), center="mean" not in name)
    check_loaded(model, reference)
    if "mean" not in name:
        torch.save({"model": checkpoint_of(reference)}, tmp_path / "image.pth")
        model = build(reference)
        keep_own(model, reference)
        model.load_pretrained(tmp_path / "image.pth")
        check_loaded(model, reference)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("load_resize")])
def test_files_of_other_sizes_and_frames_are_resized(name: str, tmp_path: Path) -> None:
    reference = reference_of(name)
    torch.save(checkpoint_of(reference), tmp_path / "checkpoint.pth")
    model = build(reference)
    model.load_pretrained(tmp_path / "checkpoint.pth")
    check_loaded(model, reference)


def test_a_file_of_the_masked_pretraining_starts_a_classifier(tmp_path: Path) -> None:
    """Its last norm was not trained: the classifier's stays at 1, as in the authors' fine-tuning."""
    reference = reference_of("micro_pretrain_f4_mask")
    state = fill.state_dict(reference)
    torch.save({"model": state}, tmp_path / "pretraining.pth")
    model = timm.create_model("test_videomamba", embed_dim=64, d_state=16, num_frames=8, num_classes=5)
    head = model.head.weight.clone()
    model.load_pretrained(tmp_path / "pretraining.pth")
    found = videomamba.official_state_dict(model)
    assert torch.equal(model.head.weight, head) and torch.equal(found["norm_f.weight"], torch.ones(64))
    assert torch.equal(found["layers.1.mixer.D_b"], state["layers.1.mixer.D_b"])
    temporal = state["temporal_pos_embedding"]
    assert found["temporal_pos_embedding"].shape == (1, 8, 64)
    # the middle of a linear interpolation from 4 to 8 rows: a quarter of the way between two of them
    torch.testing.assert_close(
        found["temporal_pos_embedding"][:, 2], 0.75 * temporal[:, 1] + 0.25 * temporal[:, 0]
    )
