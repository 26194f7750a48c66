"""What the references of Spatial-Mamba and MILA are compared with, and how closely."""

import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fill
import pytest
import torch
from torch import Tensor, nn

from vimzoo.compat.official import official_gradients

OUTPUT_TOLERANCE = 3e-5  # of the reference's standard deviation
INNER_TOLERANCE = 5e-5
EXACT_TOLERANCE = 3e-5
"""Of inner tensors in float64, which are as far from the recorded ones as those are rounded. In models of a published
size with a large scan our float32 is as far from float64 again, so it proves less."""
TOTAL_TOLERANCE = 1e-4
"""Of the norm of all gradients, relative."""
GRADIENT_TOLERANCE, PUBLISHED_TOLERANCE = 2e-4, 5e-3
"""Of single gradients, relative to their norm or `FLOOR` of the largest. There are ReLUs in the stem and between
stages: in a model of a published size one activation that rounding moves across zero changes a gradient by 1e-3."""
FLOOR = 1e-3
"""Gradients below this share of the largest are compared with it instead."""
ROUNDED = 1e-7
"""The recorded distance of some ReLU's input from zero, relative to their spread, that float32 rounds away."""


def heavy(folder: Path, pattern: str) -> list[Any]:
    """The names of references as parameters; those of published sizes are slow."""
    names = sorted(path.name.removesuffix(".json.gz") for path in folder.glob(f"{pattern}.json.gz"))
    assert names
    return [pytest.param(name, marks=[pytest.mark.slow] if is_published(name) else []) for name in names]


def is_published(name: str) -> bool:
    """Whether a reference is of a published size."""
    return "tiny" in name or "base" in name


def outputs_of(answer: Tensor | list[Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
    """All outputs as a list."""
    return [answer] if isinstance(answer, Tensor) else list(answer)


def check_model(
    reference: dict[str, Any],
    scope: Mapping[str, Any],
    record: Callable[[nn.Module], dict[str, Tensor]],
    part: str = "",
) -> None:
    """Outputs, inner tensors and gradients of the model that the reference's constructor call builds.

    Args:
        reference: The recording.
        scope: Names in that call.
        record: Function from the model to a dict that its calls fill with inner tensors.
        part: Pattern of the names of the gradients that are compared; all by default.
    """
    model = eval(reference["build"], dict(scope)).eval()
    counts = {name: torch.tensor(0) for name in reference["kept"] if name.endswith("num_batches_tracked")}
    model.load_state_dict(fill.state_dict(reference) | counts)
    assert sum(p.numel() for p in model.parameters()) == reference["num_params"]
    images = fill.model_input(reference)
    trains = "m.train()" in reference.get("call", "")
    if not trains:
        with torch.no_grad():  # the faster forms of inference
            found = outputs_of(model(images))
        for output, want in zip(found, reference["outputs"], strict=True):
            assert fill.mismatch(output, want) < OUTPUT_TOLERANCE
    published = reference["num_params"] > 10_000_000
    if published:
        exact = copy.deepcopy(model).double()
        seen, tolerance = record(exact), EXACT_TOLERANCE
        with torch.no_grad():
            exact(images.double())
    else:
        seen, tolerance = record(model), INNER_TOLERANCE
    outputs = outputs_of(model.train(trains)(images))
    for output, want in zip(outputs, reference["outputs"], strict=True):
        assert fill.mismatch(output, want) < OUTPUT_TOLERANCE
    for label, want in reference["intermediates"].items():
        assert fill.mismatch(seen[label], want) < tolerance, label
    if "grad_norm" in reference:
        sum((output * fill.example_input(output.shape, 7)).sum() for output in outputs).backward()
        check_gradients(model, reference, part)


def check_gradients(model: nn.Module, reference: dict[str, Any] | None, part: str = "") -> None:
    """Gradients of all parameters; against the reference if there is one, those of names with ``part``."""
    found = {name: gradient.double().norm().item() for name, gradient in official_gradients(model).items()}
    assert len(found) >= sum(1 for p in model.parameters())
    if reference is None:
        return
    wanted = reference["grad_norm"]
    assert set(found) == set(wanted)
    wanted = {name: norm for name, norm in wanted.items() if re.search(part, name)}
    found = {name: found[name] for name in wanted}
    total = sum(norm**2 for norm in wanted.values()) ** 0.5
    assert sum(norm**2 for norm in found.values()) ** 0.5 == pytest.approx(total, rel=TOTAL_TOLERANCE)
    crosses = reference["num_params"] > 10_000_000 or reference["relu_margin"] < ROUNDED
    tolerance = PUBLISHED_TOLERANCE if crosses else GRADIENT_TOLERANCE
    floor = FLOOR * max(wanted.values())
    for name, want in wanted.items():
        assert abs(found[name] - want) < tolerance * max(want, floor), name
