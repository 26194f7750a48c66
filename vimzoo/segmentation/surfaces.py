"""Distances between the surfaces of two masks: Hausdorff distance, its 95th percentile in two forms, mean distance.

A surface is the mask's elements that have a face neighbour outside; the border of the image counts as outside.
medpy and MONAI have the same surfaces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["SurfaceScores", "surface_scores"]


class SurfaceScores(NamedTuple):
    """Distances between two surfaces, in the unit of the spacing.

    All are infinite if one of the masks is empty, and NaN if both are. A script that has 0 there counts a missed
    organ as perfect.

    Attributes:
        hd95_pooled: 95th percentile of the distances in both directions together (medpy, tables on Synapse).
        hd95_max: The larger of the two directions' 95th percentiles (MONAI). Not comparable with the other.
        hausdorff: The largest distance.
        mean: Over all elements of both surfaces (medpy's ``assd``).
    """

    hd95_pooled: float
    hd95_max: float
    hausdorff: float
    mean: float


def surface_scores(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float] | None = None
) -> SurfaceScores:
    """Distances between the surfaces of two masks of one class.

    Args:
        prediction, reference: Masks of one shape and any rank, bool; other types are true where not 0.
        spacing: Size of an element along each axis, in the order of the axes (rows before columns, slices first).
            None measures in elements.

    Raises:
        ImportError: SciPy is missing.
        ValueError: the shapes differ, or the spacing does not have one positive number per axis.
    """
    guess, truth = (np.asarray(mask, dtype=bool) for mask in (prediction, reference))
    if guess.shape != truth.shape:
        raise ValueError(f"prediction: expected the reference's shape {truth.shape}, got {guess.shape}")
    sides = (1.0,) * truth.ndim if spacing is None else tuple(map(float, spacing))
    if len(sides) != truth.ndim or not all(0 < side < math.inf for side in sides):
        raise ValueError(f"spacing: expected {truth.ndim} positive numbers, got {spacing}")
    if not guess.any() or not truth.any():
        lacking = math.inf if guess.any() or truth.any() else math.nan
        return SurfaceScores(*[lacking] * 4)
    box = _bounds(guess | truth)
    there, back = _distances(guess[box], truth[box], sides)
    together = np.concatenate([there, back])
    return SurfaceScores(
        hd95_pooled=float(np.percentile(together, 95)),
        hd95_max=float(max(np.percentile(part, 95) for part in (there, back))),
        hausdorff=float(together.max()),
        mean=float(together.mean()),
    )


def _bounds(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around a mask; beyond it nothing changes, and transforms take time by volume."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        places = np.flatnonzero(mask.any(axis=others))
        box.append(slice(places[0], places[-1] + 1))
    return tuple(box)


def _distances(
    guess: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Distances of each surface's elements to the nearest of the other one."""
    try:
        from scipy import ndimage
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "surface_scores needs SciPy; pip install 'vimzoo[train]'", name=error.name
        ) from None

    first, second = (mask & ~ndimage.binary_erosion(mask) for mask in (guess, truth))
    to_first, to_second = (
        ndimage.distance_transform_edt(~surface, sampling=spacing) for surface in (first, second)
    )
    return to_second[first], to_first[second]
