"""Every recorded answer of the official Vim code, by the authors' own calls: outputs, inner tensors, gradients."""

import re
from pathlib import Path

import fill
import pytest
import timm
import torch

from vimzoo.compat import mamba_ssm, vim
from vimzoo.models.tokens import resize_pos_embed

REFERENCES = Path(__file__).parent / "references" / "vim"
OUTPUT_TOLERANCE = 3e-5  # of the reference's standard deviation
GRADIENT_TOLERANCE = 1e-4  # relative, norms in float64
HEAVY = ("vim_base_patch16_224", "vim_small_patch16_stride8_224")
REGISTERED = {
    "vim_tiny_patch16_224": "vim_tiny_patch16_224",
    "vim_small_patch16_stride8_224": "vim_small_patch16_stride8_224",
    "vim_base_patch16_224": "vim_base_patch16_224",
}


def names(pattern: str) -> list:
    found = sorted(path.name.removesuffix(".json.gz") for path in REFERENCES.glob(f"{pattern}.json.gz"))
    assert found, pattern
    return [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in found]


def reference_of(name: str) -> dict:
    return fill.load(REFERENCES / f"{name}.json.gz")


def build(reference: dict) -> torch.nn.Module:
    """The authors' constructor call, read off the reference, on our compatible constructors."""
    call = re.sub(r"^(det |models_mamba\.|mamba_simple\.|seg\.backbone\.vim\.)", "", reference["build"])
    source = mamba_ssm if reference["build"].startswith("mamba_simple") else vim
    return eval(call, dict(vars(source)))


def record(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Fills a dict with inner tensors under the official module names while the model runs."""
    seen: dict[str, torch.Tensor] = {}

    def keep(label, pick):
        return lambda module, args, output: seen.__setitem__(label, pick(output))

    def whole(output):
        return output

    def first(output):
        return output[0]

    model.patch_embed.register_forward_hook(keep("patch_embed", whole))
    model.pos_drop.register_forward_hook(keep("pos_drop", whole))
    model.norm.register_forward_hook(keep("norm_f", first))
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(keep(f"layers.{i}", first))
        block.mixer.register_forward_hook(keep(f"layers.{i}.mixer", whole))
        block.norm.register_forward_hook(keep(f"layers.{i}.norm", first))
        block.norm.register_forward_hook(keep(f"layers.{i}.residual", lambda output: output[1]))
    return seen


def outputs_of(result) -> list[torch.Tensor]:
    if isinstance(result, dict):
        return list(result.values())
    return list(result) if isinstance(result, (list, tuple)) else [result]


def check_outputs(outputs: list[torch.Tensor], reference: dict) -> None:
    assert len(outputs) == len(reference["outputs"])
    for output, want in zip(outputs, reference["outputs"], strict=True):
        assert fill.mismatch(output, want) < OUTPUT_TOLERANCE


def check_gradients(outputs: list[torch.Tensor], module: torch.nn.Module, reference: dict) -> None:
    loss = sum((output * fill.example_input(output.shape, 7)).sum() for output in outputs)
    loss.backward()
    norms = {name: g.double().norm().item() for name, g in vim.official_gradients(module).items()}
    assert set(norms) == set(reference["grad_norm"])
    for name, want in reference["grad_norm"].items():
        assert norms[name] == pytest.approx(want, rel=GRADIENT_TOLERANCE, abs=1e-12), name


@pytest.mark.parametrize("name", names("vim_*"))
def test_model(name: str) -> None:
    reference = reference_of(name)
    model = build(reference).eval()
    model.load_state_dict(fill.state_dict(reference))
    seen = record(model)
    outputs = outputs_of(model(fill.model_input(reference)))
    check_outputs(outputs, reference)
    for label, want in reference["intermediates"].items():
        assert fill.mismatch(seen[label], want) < OUTPUT_TOLERANCE, label
    check_gradients(outputs, model, reference)


@pytest.mark.parametrize("name", names("mixer_*"))
@pytest.mark.parametrize("source", (mamba_ssm, vim))
def test_mixer(name: str, source) -> None:
    reference = reference_of(name)
    call = reference["build"].removeprefix("mamba_simple.")
    mixer = eval(call, dict(vars(source)))
    mixer.load_state_dict(fill.state_dict(reference))
    outputs = [mixer(fill.model_input(reference))]
    check_outputs(outputs, reference)
    check_gradients(outputs, mixer, reference)


@pytest.mark.parametrize("name", names("pos_embed_*"))
def test_pos_embed(name: str) -> None:
    reference = reference_of(name)
    pos_embed = fill.state_dict(reference)["pos_embed"].requires_grad_()
    rows, wanted = pos_embed.shape[1], reference["outputs"][0]["shape"][1]
    old, new = int(rows**0.5), int(wanted**0.5)
    placement = "middle" if rows > old * old else "none"
    resized = resize_pos_embed(pos_embed, (old, old), (new, new), placement, official="official" in name)
    check_outputs([resized], reference)
    (resized * fill.example_input(resized.shape, 7)).sum().backward()
    norm = pos_embed.grad.double().norm().item()
    assert norm == pytest.approx(reference["grad_norm"]["pos_embed"], rel=GRADIENT_TOLERANCE)


@pytest.mark.parametrize("name", names("pos_embed_official_*"))
def test_interpolate_pos_embed(name: str) -> None:
    """The authors' function, on the authors' names."""
    reference = reference_of(name)
    shape = reference["outputs"][0]["shape"]
    side = int(shape[1] ** 0.5)
    model = vim.VisionMamba(
        img_size=side * 16, embed_dim=shape[2], depth=1, if_cls_token=shape[1] > side * side
    )
    state = fill.state_dict(reference)
    vim.interpolate_pos_embed(model, state)
    check_outputs([state["pos_embed"]], reference)


@pytest.mark.parametrize("name", [p for p in names("vim_*_patch16_*") if p.values[0] in REGISTERED])
def test_checkpoint_file_of_a_registered_model(name: str, tmp_path: Path) -> None:
    """The user's way: a file as the authors save it, by timm's create_model."""
    reference = reference_of(name)
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": fill.state_dict(reference)}, path)
    model = timm.create_model(
        REGISTERED[name], pretrained=True, pretrained_cfg_overlay=dict(file=str(path))
    ).eval()
    outputs = [model(fill.model_input(reference))]
    check_outputs(outputs, reference)
    check_gradients(outputs, model, reference)
