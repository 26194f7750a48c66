"""Every recorded answer of the GroupMamba authors' code: outputs, inner tensors, gradients."""

from functools import partial
from pathlib import Path

import fill
import pytest
import timm
import torch
from torch import Tensor, nn

from vimzoo.compat import group_mamba
from vimzoo.layers.grouped import BETWEEN_GROUPS, GROUPS

REFERENCES = Path(__file__).parent / "references" / "group_mamba"
TOLERANCE = 3e-5  # of the reference's standard deviation
INNER_TOLERANCE = 5e-5
"""Of inner tensors: two roundings, of which the recorded ones are up to 2.2e-5 from float64."""
PARAMETER_TOLERANCE = 2e-4
PUBLISHED_TOLERANCE = 5e-3
"""Of one parameter's gradient at published size: rounding across zero at a ReLU of the stem moves it by so much."""
TOTAL_TOLERANCE = 1e-4
WITHOUT_GRADIENT = ("skip_scale", "post_network.0.attn.mamba_g")
"""Zero but for rounding: a norm follows the factor, and a scan of one step does not depend on its decay."""
NAMES = sorted(path.name.removesuffix(".json.gz") for path in REFERENCES.glob("group_mamba_*.json.gz"))
PUBLISHED = [name for name in NAMES if "tiny" in name or "base" in name]
HEAVY = (*PUBLISHED, "group_mamba_hot_96", "group_mamba_micro_64")
ROUNDING = 1e-3 * TOTAL_TOLERANCE
"""Gradients below this share of the largest, as a multiple of the tolerance, count by its measure."""
MODELS = ("group_mamba_tiny_224", "group_mamba_base_224", "group_mamba_hot_64x96")
REGISTERED = {"group_mamba_tiny_224": "group_mamba_tiny", "group_mamba_base_224": "group_mamba_base"}


def reference_of(name: str) -> dict:
    return fill.load(REFERENCES / f"{name}.json.gz")


def build(reference: dict) -> nn.Module:
    """The authors' constructor call, read off the reference, on our compatible constructors."""
    return eval(reference["build"], {**vars(group_mamba), "partial": partial, "nn": nn})


def record(model: nn.Module) -> dict[str, Tensor]:
    """Fills a dict with inner tensors under the official module names while the model runs."""
    seen: dict[str, Tensor] = {}

    def keep(label: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda *args: seen.__setitem__(label, args[2]))

    def keep_mixer(label: str, mixer: nn.Module) -> None:
        def groups(part: str, tensor: Tensor) -> None:
            for k in range(GROUPS):
                seen[f"{label}mamba_g{k + 1}{part}"] = tensor[:, :, k]

        mixer.out_norm.register_forward_hook(lambda *args: groups(".out_norm:in", args[1][0]))
        mixer.out_proj.register_forward_hook(lambda *args: groups("", args[2]))
        mixer.proj.register_forward_hook(lambda *args: seen.__setitem__(f"{label}proj:in", args[1][0]))
        keep(f"{label}fc2", mixer.fc2)

    if isinstance(model, group_mamba.GroupMambaLayer):
        keep_mixer("", model)
        return seen
    for i, stage in enumerate(model.stages):
        keep(f"patch_embed{i + 1}", model.patch_embed if i == 0 else stage.downsample)
        for j, block in enumerate(stage.blocks):
            label = f"block{i + 1}.{j}"
            keep(label, block)
            keep(f"{label}.attn", block.mixer)
            keep(f"{label}.mlp", block.mlp)
            keep_mixer(f"{label}.attn.", block.mixer)
    keep("post_network.0.attn", model.head.block.mixer)
    keep("norm4", model.head.pre_norm)
    return seen


def answer(module: nn.Module, reference: dict) -> list[Tensor]:
    """The call that the reference states, or ``m(x)``."""
    scope = {"m": module, "x": fill.model_input(reference)}
    output = eval(reference.get("call", "m(x)"), scope)
    return list(output) if isinstance(output, tuple) else [output]


def check_gradients(outputs: list[Tensor], module: nn.Module, reference: dict, tolerance: float) -> None:
    sum((output * fill.example_input(output.shape, 7)).sum() for output in outputs).backward()
    found = group_mamba.official_gradients(module)
    norms = {name: g.double().norm().item() for name, g in found.items()}
    wanted = reference["grad_norm"]
    assert set(norms) == set(wanted)
    total, expected = (sum(v**2 for v in values.values()) ** 0.5 for values in (norms, wanted))
    assert total == pytest.approx(expected, rel=TOTAL_TOLERANCE)
    floor = ROUNDING / TOTAL_TOLERANCE * max(wanted.values())
    for name, want in wanted.items():
        if not any(part in name for part in WITHOUT_GRADIENT):
            assert abs(norms[name] - want) <= tolerance * max(want, floor), name


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in NAMES]
)
def test_answers(name: str) -> None:
    reference = reference_of(name)
    module = build(reference).eval()
    assert sum(parameter.numel() for parameter in module.parameters()) == reference["num_params"]
    module.load_state_dict(fill.state_dict(reference))
    own = group_mamba.official_state_dict(module)
    assert {key: list(own[key].shape) for key in reference["params"]} == reference["params"]
    seen = record(module)
    outputs = answer(module, reference)
    assert len(outputs) == len(reference["outputs"])
    for output, want in zip(outputs, reference["outputs"], strict=True):
        assert fill.mismatch(output, want) < TOLERANCE
    for label, want in reference["intermediates"].items():
        assert fill.mismatch(seen[label].reshape(want["shape"]), want) < INNER_TOLERANCE, label
    if "grad_norm" in reference:
        check_gradients(
            outputs, module, reference, PUBLISHED_TOLERANCE if name in PUBLISHED else PARAMETER_TOLERANCE
        )


def test_directions() -> None:
    """Group k visits the tokens of its own, in the order that the authors' scan has."""
    for case in fill.load(REFERENCES / "ops_group_scans.json.gz")["cases"]:
        height, width = case["map"]
        for k, (path, order) in enumerate(zip(BETWEEN_GROUPS, case["orders"], strict=True)):
            assert path.tokens(height, GROUPS * width).tolist() == [GROUPS * token + k for token in order]


@pytest.mark.slow
@pytest.mark.parametrize("name", REGISTERED)
def test_checkpoint_file_of_a_registered_model(name: str, tmp_path: Path) -> None:
    """The user's way: a file as the authors save it, by timm's create_model."""
    reference = reference_of(name)
    counts = {key: torch.tensor(7) for key in reference["kept"]}
    torch.save(fill.state_dict(reference) | counts, tmp_path / "ema.pth")
    overlay = dict(file=str(tmp_path / "ema.pth"))
    model = timm.create_model(REGISTERED[name], pretrained=True, pretrained_cfg_overlay=overlay).eval()
    assert fill.mismatch(model(fill.model_input(reference)), reference["outputs"][0]) < TOLERANCE
