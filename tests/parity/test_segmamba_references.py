"""Every recorded answer of the SegMamba authors' code: mixer, layers, encoder and whole networks."""

from pathlib import Path

import fill
import pytest
import torch
from torch import Tensor, nn

from vimzoo.compat import segmamba
from vimzoo.compat.mamba_ssm.modules.mamba_simple import Mamba

REFERENCES = Path(__file__).parent / "references" / "segmamba"
OUTPUT_TOLERANCE = 3e-5  # of the reference's standard deviation
INNER_TOLERANCE = 5e-5
GRADIENT_TOLERANCE = 1e-4
ROUNDING = 1e-6  # of the largest gradient norm
DOUBLE_TOLERANCE = 1e-9  # of files recorded in float64
SINGLE_TOLERANCE = 1e-3  # of the same in float32, whose noise floor is 1e-4
NAMES = sorted(path.name.removesuffix(".json.gz") for path in REFERENCES.glob("*.json.gz"))
NETWORKS = [name for name in NAMES if name.startswith("segmamba_")]
LAYERS = [name for name in NAMES if name not in NETWORKS]
PARTS = {
    **{f"vit.{theirs}": f"encoder.{ours}" for theirs, ours in (("gscs.0", "stages.0.gate"),)},
    **{f"vit.stages.{i}": f"encoder.stages.{i}.blocks" for i in range(4)},
    **{f"encoder{i + 1}": f"skips.{i}" for i in range(5)},
    **{f"decoder{5 - i}": f"ups.{i}" for i in range(4)},
    "decoder1": "last",
    "downsample_layers.0": "stages.0.down",
    "gscs.0": "stages.0.gate",
    **{f"stages.{i}": f"stages.{i}.blocks" for i in range(4)},
    "norm0": "stages.0.norm",
    "mlps.0": "stages.0.mlp",
}
"""Labels of inner tensors -> our modules."""


def build(reference: dict) -> nn.Module:
    """The authors' constructor call, read off the reference, on our compatible constructors."""
    scope = {name: getattr(segmamba, name) for name in segmamba.__all__}
    return eval(reference["build"], {**scope, "Mamba": Mamba})


def built(reference: dict, dtype: torch.dtype) -> nn.Module:
    model = build(reference).eval().to(dtype)
    assert sum(p.numel() for p in model.parameters()) == reference["num_params"]
    model.load_state_dict(fill.state_dict(reference, dtype))
    own = segmamba.official_state_dict(model)
    assert {key: list(value.shape) for key, value in own.items()} == reference["params"]
    return model


def recorded(model: nn.Module, labels: list[str]) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    for label in labels:
        part = model.get_submodule(PARTS[label])
        part.register_forward_hook(lambda *args, label=label: seen.__setitem__(label, args[2]))
    return seen


def answered(
    name: str, dtype: torch.dtype, outputs: float, inner: float
) -> tuple[dict, nn.Module, list[Tensor]]:
    reference = fill.load(REFERENCES / f"{name}.json.gz")
    model = built(reference, dtype)
    probes = reference.get("intermediates") or {}
    seen = recorded(model, list(probes))
    found = model(fill.model_input(reference, dtype))
    found = found if isinstance(found, list) else [found]
    for output, want in zip(found, reference["outputs"], strict=True):
        assert fill.mismatch(output, want) < outputs
    for label, want in probes.items():
        assert fill.mismatch(seen[label], want) < inner, label
    return reference, model, found


def check_gradients(reference: dict, model: nn.Module, outputs: list[Tensor], tolerance: float) -> None:
    sum((y * fill.example_input(y.shape, 7, y.dtype)).sum() for y in outputs).backward()  # type: ignore[union-attr]
    found, wanted = segmamba.official_gradients(model), reference["grad_norm"]
    assert set(wanted) <= set(found)  # biases before an instance norm are left out
    for label, want in wanted.items():
        norm = found[label].double().norm().item()
        assert abs(norm - want) <= tolerance * want + tolerance / 100 * max(wanted.values()), label


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "encoder" in name else []) for name in LAYERS]
)
def test_layers(name: str) -> None:
    reference, model, outputs = answered(name, torch.float32, OUTPUT_TOLERANCE, INNER_TOLERANCE)
    check_gradients(reference, model, outputs, GRADIENT_TOLERANCE)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "brats" in name else []) for name in NETWORKS]
)
@torch.no_grad()
def test_networks_in_float32(name: str) -> None:
    answered(name, torch.float32, SINGLE_TOLERANCE, SINGLE_TOLERANCE)


@pytest.mark.slow
def test_a_network_in_float64() -> None:
    answer = answered("segmamba_micro_32_hot", torch.float64, DOUBLE_TOLERANCE, DOUBLE_TOLERANCE)
    check_gradients(*answer, DOUBLE_TOLERANCE)
