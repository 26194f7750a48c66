"""Photographs that ship with scikit-image and scikit-learn, for restoration without a download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..pairs.degradations import Degradation
from ..pairs.photos import PHOTOS, photo_files
from ..pairs.settings import PairSettings
from ..record import Source
from ..splits import Splits


def bundled_photos(
    scale: int = 1,
    sigma: float | Sequence[float] = 0.0,
    quality: int | None = None,
    rounded: bool = False,
    crop: int = 64,
    crops: int = 3200,
    eval_crop: int | None = None,
    **options: Any,
) -> Splits:
    """The bundled photographs, split by photograph and degraded while they are read.

    Args:
        scale, sigma, quality, rounded: What is to be undone, see `vimzoo.data.pairs.degradations.Degradation`.
        crop, crops, eval_crop, options: Of `vimzoo.data.pairs.settings.PairSettings`.

    Raises:
        UsageError: an option does not fit, or a photograph is missing.
    """
    settings = PairSettings(crop=crop, crops=crops, eval_crop=eval_crop, **options)
    return settings.splits(
        "photographs (bundled with scikit-image and scikit-learn)",
        [(None, photo_files(split)) for split in PHOTOS],
        scale,
        Degradation(scale, sigma, quality, rounded),
    )


SOURCE = Source("photos", bundled_photos, PairSettings, targets="images")
