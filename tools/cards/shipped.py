"""What was measured of the weights that are part of the package, for cards and docs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vimzoo.models.facts import Facts

from .markdown import number, result_table
from .results import Results, command

PHOTOS = ("photos_denoise", "photos_sr_x2")
"""Result files of restoration models."""
DIGITS = "shipped_digits"
_OTHERS = {"noisy": "noisy", "non_local_means": "scikit-image's non-local means", "bicubic": "bicubic"}


def photos_table(results: Results) -> str:
    """Held-out photographs, restored: a table for each model."""
    found = (result_table(result, command(name)) for name, result in results.of_shipped(*PHOTOS).items())
    return "\n\n".join(found)


def lines(facts: Facts, results: Results) -> Iterator[str]:
    """Lines of a model's card."""
    for name, result in results.of_shipped(*PHOTOS, DIGITS).items():
        own = [row for row in result["rows"] if row["model"] == facts.name]
        shown = [row for row in own if row.get("photograph", "mean") == "mean"]
        if not shown:
            continue
        said = "; ".join(f"{_weights(row)}{_score(row)}" for row in shown)
        yield f"Measured by `{command(name)}`: {said}"


def _weights(row: Mapping[str, Any]) -> str:
    return "" if row["weights"] == "shipped" else f"trained again with {row['weights']}: "


def _score(row: Mapping[str, Any]) -> str:
    if "top1" in row:
        return f"top-1 {row['top1']:.1f} % of {row['images']} digits that were held out"
    others = ", ".join(f"{words} {number(row[key])} dB" for key, words in _OTHERS.items() if key in row)
    level = f"sigma {row['sigma']}: " if "sigma" in row else "mean of held-out photographs "
    return f"{level}{number(row['psnr'])} dB ({others})"
