"""Every recorded answer of the VM-UNet authors' code: outputs, inner maps, gradients, and what their loader fills."""

from pathlib import Path

import fill
import pytest
import torch
from torch import Tensor, nn

from vimzoo.compat import vm_unet

REFERENCES = Path(__file__).parent / "references" / "vm_unet"
OUTPUT_TOLERANCE = 3e-5  # of the reference's standard deviation
INNER_TOLERANCE = 5e-5
GRADIENT_TOLERANCE = 1e-4
ROUNDING = 1e-6  # of the largest gradient norm
HEAVY = (
    "micro_vmunet_d1111_64_hot",
    "vmunet_isic_256_hot",
    "vmunet_default_tiny_256",
    "micro_vssm_64",
    "micro_vssm_64_nopatchnorm_dstate",
)
EXACT = ("vmunet_isic_256_hot", "vmunet_default_tiny_256")
"""Compared in float64: a published size with a large scan, where our float32 is as far from float64 as the recorded."""
INNER = ("patch_embed", *(f"layers.{i}" for i in range(4)), *(f"layers_up.{i}" for i in range(4)), "final_up")
REGISTERED = {"vmunet_default_tiny_256": "vm_unet_deep", "vmunet_isic_256_hot": "vm_unet"}
NAMES = sorted(path.name.removesuffix(".json.gz") for path in REFERENCES.glob("*.json.gz"))
ANSWERS = [name for name in NAMES if not name.startswith("load_")]


def reference_of(name: str) -> dict:
    """A recording; inner tensors and gradients of the authors' wrapper are under the names of what it holds."""
    reference = fill.load(REFERENCES / f"{name}.json.gz")
    for key in ("intermediates", "grad_norm"):
        named = reference.get(key) or {}
        reference[key] = {label.removeprefix(vm_unet.PREFIX): value for label, value in named.items()}
    inner = reference["intermediates"]
    reference["intermediates"] = {label: inner[label] for label in inner if label in INNER}
    return reference


def build(reference: dict) -> nn.Module:
    return eval(reference["build"], {"VSSM": vm_unet.VSSM, "VMUNet": vm_unet.VMUNet}).eval()


def record(model: nn.Module) -> dict[str, Tensor]:
    """Outputs of inner modules by the authors' names."""
    seen: dict[str, Tensor] = {}

    def keep(label: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda *args: seen.__setitem__(label, args[2]))

    keep("patch_embed", model.patch_embed)
    for i in range(3):
        keep(f"layers.{i}", model.stages[i + 1].downsample)
    keep("layers.3", model.stages[3].blocks)
    for i in range(4):
        keep(f"layers_up.{i}", model.up_stages[i])
    keep("final_up", model.final)
    return seen


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in ANSWERS]
)
def test_answers(name: str) -> None:
    reference = reference_of(name)
    model = build(reference)
    assert sum(parameter.numel() for parameter in model.parameters()) == reference["num_params"]
    model.load_state_dict(fill.state_dict(reference))
    seen, images = record(model), fill.model_input(reference)
    if name in EXACT:
        model, images = model.double(), images.double()
    with torch.set_grad_enabled(bool(reference["grad_norm"])):
        output = model(images)
    assert fill.mismatch(output, reference["outputs"][0]) < OUTPUT_TOLERANCE
    inner = reference["intermediates"]
    assert len(inner) >= 8
    for label, probe in inner.items():
        assert fill.mismatch(seen[label], probe) < INNER_TOLERANCE, label
    if wanted := reference["grad_norm"]:
        (output * fill.example_input(output.shape, 7)).sum().backward()
        found = vm_unet.official_gradients(model)
        assert set(found) == set(wanted)
        for label, want in wanted.items():
            norm = found[label].double().norm().item()
            assert abs(norm - want) <= GRADIENT_TOLERANCE * want + ROUNDING * max(wanted.values()), label


@pytest.mark.slow
@pytest.mark.parametrize("generation", ["first", "later"])
def test_loading_a_vmamba(generation: str, tmp_path: Path) -> None:
    """What the authors' loader takes from VMamba-S, also from a file with the names of later releases."""
    reference = fill.load(REFERENCES / "load_vmunet_isic_from_vmamba_small_v0.json.gz")
    checkpoint = {name: fill.fill(name, shape) for name, shape in reference["checkpoint"].items()}
    if generation == "later":
        checkpoint = {
            name.replace("ln_1.", "norm.").replace("self_attention.", "op."): value
            for name, value in checkpoint.items()
        }
    torch.save({reference["wrapper"]: checkpoint}, tmp_path / "vmamba.pth")
    model = build(reference)
    own = {name: fill.fill(f"own.{name}", shape) for name, shape in reference["params"].items()}
    model.load_state_dict(own, strict=False)
    model.load_ckpt_path = str(tmp_path / "vmamba.pth")
    model.load_from()
    with torch.no_grad():
        output = model(fill.model_input(reference))
    assert fill.mismatch(output, reference["outputs"][0]) < OUTPUT_TOLERANCE


def test_dropout_is_refused() -> None:
    with pytest.raises(ValueError, match=r"drop_rate=0\.1: expected 0"):
        vm_unet.VSSM(depths=(1, 1, 1, 1), depths_decoder=(1, 1, 1, 1), drop_rate=0.1)
