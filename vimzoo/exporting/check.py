"""Compares a written file with the model that it was made from."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from vimzoo.models.counting import input_shape
from vimzoo.models.export_options import ExportOptions

from .record import Format, Run

BOUND = 3e-5
"""Largest difference from PyTorch that a written file may have, as a share of the output's standard deviation."""


class Check(NamedTuple):
    """How a file compares with its model on images of one shape.

    Attributes:
        shape: Of the images, ``(B, C, H, W)``.
        difference: The largest, as a share of the output's standard deviation.
        share: Of the output, the part with the smallest differences, which `difference` is about.
        runtime: What ran the file, if not what `Format.load` uses.
    """

    shape: tuple[int, ...]
    difference: float
    share: float = 1.0
    runtime: str = ""


def options_of(model: nn.Module) -> ExportOptions:
    """What the model's class says about its export."""
    return getattr(model, "export_options", ExportOptions())  # type: ignore[return-value]


def bound_of(model: nn.Module) -> float:
    """The largest difference that a file of this model may have."""
    return options_of(model).bound or BOUND


def coarsest(model: nn.Module) -> int:
    """Pixels from one position of the smallest feature map to the next."""
    return max(info["reduction"] for info in getattr(model, "feature_info", None) or [{"reduction": 1}])


def image_shapes(model: nn.Module, size: tuple[int, int] | str | None) -> list[tuple[int, ...]]:
    """Shapes to export and to check with: the first is the example, the last has one image and is timed.

    Args:
        model: With timm's ``pretrained_cfg``.
        size: ``"dynamic"``, height and width, or None for the model's own.
    """
    cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    height, width = cfg["input_size"][1:]
    if size == "dynamic":
        # torch.export would specialise a side of one position
        height, width = (max(side, 2 * coarsest(model)) for side in (height, width))
        step = options_of(model).size_step
        sizes = [(height, width + 32), (height + 32, width), (height + step, width + 96), (height, width)]
    else:
        sizes = [size if isinstance(size, tuple) else (height, width)] * 3
    return [(batch, *input_shape(model, hw)) for batch, hw in zip((2, 3, 1, 1), sizes, strict=False)]


@torch.no_grad()
def compare(run: Run, model: nn.Module, shapes: Sequence[tuple[int, ...]]) -> Check:
    """The worst of the comparisons on the same random images of every shape."""
    generator, checks = torch.Generator().manual_seed(1), []
    share = options_of(model).agreement
    for shape in shapes:
        images = torch.rand(shape, generator=generator)
        want = model(images)
        differences = (run(images) - want).abs().flatten() / want.std()
        largest = differences.max()
        if share < 1 and largest.isfinite():
            largest = differences.kthvalue(math.ceil(share * differences.numel())).values
        # a missing number would compare as smaller than any other
        checks.append(Check(shape, largest.nan_to_num(math.inf).item(), share))
    return worst_of(checks)


def worst_of(checks: Iterable[Check]) -> Check:
    """The one with the largest difference."""
    return max(checks, key=lambda check: check.difference)


def compare_everywhere(
    form: Format, path: Path, run: Run, model: nn.Module, shapes: Sequence[tuple[int, ...]]
) -> Check:
    """The worst of the comparisons in every installed runtime that reads a file: open, and compiled for one shape.

    Args:
        form: The file's format.
        path: The file.
        run: The file as the format itself loads it.
        model, shapes: As for `compare`.
    """
    checks = [compare(run, model, shapes)]
    for other in form.others:
        if all(find_spec(module) for module in other.requires):
            opened, fixed = compare(other.load(path, None), model, shapes), shapes[-1]
            checks.append(opened._replace(runtime=other.name))
            at_one_size = compare(other.load(path, fixed), model, [fixed])
            checks.append(at_one_size._replace(runtime=f"{other.name} with fixed sizes"))
    return worst_of(checks)


@torch.no_grad()
def milliseconds(run: Run, shape: tuple[int, ...], rounds: int = 5) -> float:
    """Median time of a call."""
    images, times = torch.rand(shape), []
    run(images)
    for _ in range(rounds):
        start = time.perf_counter()
        run(images)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3
