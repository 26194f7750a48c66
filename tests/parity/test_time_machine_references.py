"""Every recorded answer of the official TimeMachine code: forecasts, inner tensors, gradients."""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fill
import pytest
import torch
from test_vim_references import check_outputs
from torch import nn

from vimzoo.compat import time_machine
from vimzoo.models.time_machine import TimeMachine

REFERENCES = Path(__file__).parent / "references" / "peers"
OUTPUT_TOLERANCE = 3e-5  # of the reference's standard deviation
GRADIENT_TOLERANCE = 1e-4  # relative, norms in float64
NAMES = sorted(path.name.removesuffix(".json.gz") for path in REFERENCES.glob("timemachine_*.json.gz"))
REGISTERED = {"timemachine_etth2_96_96": "time_machine_etth2_96_96"}


def build(reference: dict[str, Any]) -> Any:
    return eval(reference["build"], {"Model": time_machine.Model, "SimpleNamespace": SimpleNamespace})


def recorded(model: nn.Module, labels: Iterable[str]) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}
    for label in labels:
        part = model.get_submodule(label)
        part.register_forward_hook(lambda *args, label=label: seen.__setitem__(label, args[2].detach()))
    return seen


@pytest.mark.parametrize("name", NAMES)
def test_model(name: str) -> None:
    reference = fill.load(REFERENCES / f"{name}.json.gz")
    model = build(reference).eval()
    model.load_state_dict(fill.state_dict(reference))
    assert sum(p.numel() for p in model.parameters()) == reference["num_params"]
    own = time_machine.official_state_dict(model)
    assert {key: list(value.shape) for key, value in own.items()} == reference["params"]
    seen = recorded(model, reference["intermediates"])
    series = fill.model_input(reference)
    outputs = [model(series)]
    check_outputs(outputs, reference)
    for label, want in reference["intermediates"].items():
        assert fill.mismatch(seen[label], want) < OUTPUT_TOLERANCE, label
    (outputs[0] * fill.example_input(outputs[0].shape, 7)).sum().backward()
    found = time_machine.official_gradients(model)
    assert set(found) == set(reference["grad_norm"])
    for key, want in reference["grad_norm"].items():
        norm = found[key].double().norm().item()
        assert norm == pytest.approx(want, rel=GRADIENT_TOLERANCE, abs=1e-12), key


def test_the_exported_time_machine_forecasts_the_same() -> None:
    model, series = TimeMachine(3, 16, 8, n1=8, n2=4, d_state=4).eval(), torch.randn(2, 16, 3)
    exported = torch.export.export(model, (series,)).module()
    torch.testing.assert_close(exported(series), model(series))


def test_time_machine_names_wrong_series() -> None:
    model = TimeMachine(3, seq_len=8, n1=4, n2=2, d_state=2)
    with pytest.raises(ValueError, match="x: expected 8 steps, got 9"):
        model(torch.zeros(1, 9, 3))
    with pytest.raises(ValueError, match="width 3, got 2"):
        model(torch.zeros(1, 8, 2))
    with pytest.raises(ValueError, match="n2: expected a positive whole number"):
        TimeMachine(3, n2=0)
