"""What the exporter must know about a model class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ExportOptions:
    """Value of a model's attribute ``export_options``; models without one are exported with these defaults.

    Attributes:
        settings: Attributes to set on the model before it is written, such as those that make it deterministic.
        size_step: Pixels by which the heights and widths of images that the model takes may differ.
        one_size: Whether a file takes images of one height and width only, although the model takes any: scan paths
            without a closed form are tables, made for one size.
        agreement: Share of the output that must agree with PyTorch. Less than 1 where a model chooses between routes,
            because rounding in the last bit can change a choice.
        bound: Largest difference from PyTorch, as a share of the output's standard deviation. None is the exporter's.
            More where float32 itself is as far from float64.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    size_step: int = 32
    one_size: bool = False
    agreement: float = 1.0
    bound: float | None = None
