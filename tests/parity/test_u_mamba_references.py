"""Every recorded answer of the U-Mamba authors' code: layers and whole networks for images and volumes."""

from pathlib import Path
from typing import Any

import fill
import pytest
import timm
import torch
from torch import Tensor, nn

from vimzoo.compat import u_mamba

REFERENCES = Path(__file__).parent / "references" / "u_mamba"
OUTPUT_TOLERANCE = 3e-5  # of the reference's standard deviation
GRADIENT_TOLERANCE = 1e-4
ROUNDING = 1e-6  # of the largest gradient norm
DOUBLE_TOLERANCE = 1e-9  # of files recorded in float64
SINGLE_TOLERANCE = 1e-3  # of the same in float32, whose noise floor is 7e-4
NAMES = sorted(path.name.removesuffix(".json.gz") for path in REFERENCES.glob("*.json.gz"))
LAYERS = [name for name in NAMES if name.startswith("layer_")]
NETWORKS = [name for name in NAMES if name not in LAYERS]
LARGE = "umamba_enc_2d_abdomen_320x320"
REGISTERED = {LARGE: "u_mamba_enc"}
QUICK = "umamba_bot_2d_micro_64_hot"
FILES = {f"{network}_{kind}": u_mamba for network in ("UMambaBot", "UMambaEnc") for kind in ("2d", "3d")}


def build(reference: dict) -> nn.Module:
    """The authors' constructor call, read off the reference, on our compatible constructors."""
    return eval(reference["build"], {**FILES, "nn": nn})


def built(reference: dict, dtype: torch.dtype) -> Any:
    model = build(reference).eval().to(dtype)
    assert sum(p.numel() for p in model.parameters()) == reference["num_params"]
    copies = {name: torch.full(shape, torch.nan) for name, shape in (reference.get("kept") or {}).items()}
    model.load_state_dict({**copies, **fill.state_dict(reference, dtype)})
    own = u_mamba.official_state_dict(model)
    assert {key: list(value.shape) for key, value in own.items()} == reference["params"]
    return model


def recorded(model: Any, labels: list[str]) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    for label in labels:
        part = label.removeprefix("encoder.").replace("mamba_layers.", "mixers.").replace("decoder.", "up_")
        part = f"mixers.{len(model.stages) - 1}" if label == "mamba_layer" else part
        module = model.get_submodule(part)
        module.register_forward_hook(lambda *args, label=label: seen.__setitem__(label, args[2]))
    return seen


def answered(name: str, dtype: torch.dtype, tolerance: float) -> tuple[dict, nn.Module, list[Tensor]]:
    reference = fill.load(REFERENCES / f"{name}.json.gz")
    model = built(reference, dtype)
    probes = reference.get("intermediates") or {}
    seen = recorded(model, list(probes))
    found = model(fill.model_input(reference, dtype))
    found = found if isinstance(found, list) else [found]
    for output, want in zip(found, reference["outputs"], strict=True):
        assert fill.mismatch(output, want) < tolerance
    for label, want in probes.items():
        assert fill.mismatch(seen[label], want) < tolerance, label
    return reference, model, found


def check_gradients(reference: dict, model: nn.Module, outputs: list[Tensor], tolerance: float) -> None:
    sum((y * fill.example_input(y.shape, 7, y.dtype)).sum() for y in outputs).backward()  # type: ignore[union-attr]
    found, wanted = u_mamba.official_gradients(model), reference["grad_norm"]
    assert set(wanted) <= set(found)  # biases before an instance norm are left out
    for label, want in wanted.items():
        norm = found[label].double().norm().item()
        assert abs(norm - want) <= tolerance * want + tolerance / 100 * max(wanted.values()), label


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    answer = answered(name, torch.float32, OUTPUT_TOLERANCE)
    check_gradients(*answer, GRADIENT_TOLERANCE)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in ("umamba_bot_2d_micro_64", LARGE) else [])
        for name in NETWORKS
    ],
)
@torch.no_grad()
def test_networks_in_float32(name: str) -> None:
    answered(name, torch.float32, SINGLE_TOLERANCE)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == QUICK else [pytest.mark.slow])
        for name in NETWORKS
        if "micro" in name
    ],
)
def test_networks_in_float64(name: str) -> None:
    answer = answered(name, torch.float64, DOUBLE_TOLERANCE)
    check_gradients(*answer, DOUBLE_TOLERANCE)


def test_a_file_of_the_authors(tmp_path: Path) -> None:
    """As nnU-Net writes it, with heads for deep supervision that the registered model does not have."""
    reference = fill.load(REFERENCES / f"{QUICK}.json.gz")
    torch.save({"network_weights": fill.state_dict(reference)}, tmp_path / "checkpoint_final.pth")
    overlay = {"file": str(tmp_path / "checkpoint_final.pth"), "num_classes": 3}
    options = dict(dims=(8, 16, 32, 64), in_chans=3, num_classes=3, d_state=16)
    model = timm.create_model(
        "test_u_mamba", pretrained=True, pretrained_cfg_overlay=overlay, **options
    ).eval()
    with torch.no_grad():
        found = model(fill.model_input(reference))
    assert fill.mismatch(found, reference["outputs"][0]) < SINGLE_TOLERANCE


@pytest.mark.parametrize(
    "option",
    [
        {"norm_op_kwargs": {"eps": 1e-3}},
        {"norm_op_kwargs": {"affine": False}},
        {"nonlin_kwargs": {"negative_slope": 0.2}},
        {"dropout_op_kwargs": {"p": 0.5}},
        {"stem_channels": 16},
    ],
    ids=str,
)
def test_options_of_layers_are_in_force_or_refused(option: dict) -> None:
    def build(**options):
        return u_mamba.UMambaBot(1, 2, [8, 16], torch.nn.Conv2d, 3, [1, 2], 1, 2, 1, **options)

    build(norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin_kwargs={"inplace": True}, stem_channels=8)
    with pytest.raises(ValueError, match=f"{next(iter(option))}: expected"):
        build(**option)
