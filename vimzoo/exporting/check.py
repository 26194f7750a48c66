"""Compares a written file with the model that it was made from."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vimzoo.models.export_options import ExportOptions
from vimzoo.models.inputs import input_shapes, own_size
from vimzoo.models.segmentation_base import SegmentationModel

from .record import Format, Run, Shapes

BOUND = 3e-5
"""Largest difference from PyTorch that a written file may have, as a share of the output's standard deviation."""


class Check(NamedTuple):
    """How a file compares with its model on inputs of one shape.

    Attributes:
        shapes: Of the inputs, ``(B, C, H, W)`` of images.
        difference: The largest, as a share of the output's standard deviation.
        share: Of the output, the part with the smallest differences, which `difference` is about.
        runtime: What ran the file, if not what `Format.load` uses.
    """

    shapes: tuple[tuple[int, ...], ...]
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
    whole = model.multiple_of if isinstance(model, SegmentationModel) else 1
    return max(info["reduction"] for info in getattr(model, "feature_info", None) or [{"reduction": whole}])


def example_shapes(model: nn.Module, size: tuple[int, int] | str | None) -> list[Shapes]:
    """Shapes to export and to check with: the first is the example, the last has one image and is timed.

    Args:
        model: With timm's ``pretrained_cfg``.
        size: ``"dynamic"``, height and width, or None for the model's own.
    """
    own = own_size(model)
    if size == "dynamic":
        # torch.export would specialise a side of one position
        height, width = (max(side, 2 * coarsest(model)) for side in own)
        step = options_of(model).size_step
        sizes: list[tuple[int, ...]] = [(height, width + 32), (height + 32, width)]
        sizes += [(height + step, width + 96), (height, width)]
    else:
        sizes = [size if isinstance(size, tuple) else own] * 3
    return [
        tuple((batch, *shape) for shape in input_shapes(model, hw).values())
        for batch, hw in zip((2, 3, 1, 1), sizes, strict=False)
    ]


def random_inputs(shapes: Shapes, seed: int) -> tuple[Tensor, ...]:
    """Random tensors of these shapes, always the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(shape, generator=generator) for shape in shapes)


def said(shapes: Shapes) -> str:
    """The shapes of inputs, for messages."""
    return " and ".join(map(str, shapes))


@torch.no_grad()
def compare(run: Run, model: nn.Module, calls: Sequence[Shapes]) -> Check:
    """The worst of the comparisons on the same random inputs of every call's shapes."""
    checks, share = [], options_of(model).agreement
    for seed, shapes in enumerate(calls, 1):
        inputs = random_inputs(shapes, seed)
        want = model(*inputs)
        differences = (run(*inputs) - want).abs().flatten() / want.std()
        largest = differences.max()
        if share < 1 and largest.isfinite():
            largest = differences.kthvalue(math.ceil(share * differences.numel())).values
        # a missing number would compare as smaller than any other
        checks.append(Check(shapes, largest.nan_to_num(math.inf).item(), share))
    return worst_of(checks)


def worst_of(checks: Iterable[Check]) -> Check:
    """The one with the largest difference."""
    return max(checks, key=lambda check: check.difference)


def compare_everywhere(
    form: Format, path: Path, run: Run, model: nn.Module, calls: Sequence[Shapes]
) -> Check:
    """The worst of the comparisons in every installed runtime that reads a file: open, and compiled for one size.

    Args:
        form: The file's format.
        path: The file.
        run: The file as the format itself loads it.
        model, calls: As for `compare`.
    """
    checks = [compare(run, model, calls)]
    for other in form.others:
        if all(find_spec(module) for module in other.requires):
            opened, fixed = compare(other.load(path, None), model, calls), calls[-1]
            checks.append(opened._replace(runtime=other.name))
            at_one_size = compare(other.load(path, fixed), model, [fixed])
            checks.append(at_one_size._replace(runtime=f"{other.name} with fixed sizes"))
    return worst_of(checks)


@torch.no_grad()
def milliseconds(run: Run, shapes: Shapes, rounds: int = 5) -> float:
    """Median time of a call."""
    inputs, times = random_inputs(shapes, 0), []
    run(*inputs)
    for _ in range(rounds):
        start = time.perf_counter()
        run(*inputs)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3
