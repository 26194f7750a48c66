"""Photographs that ship with scikit-image and scikit-learn, to be sharpened with grey ones, without a download."""

from __future__ import annotations

from typing import Any

from ..pairs.degradations import Degradation
from ..pairs.photos import PHOTOS, photo_files
from ..pairs.scenes import GreyGuidedPairs
from ..pairs.settings import PairSettings
from ..record import Source
from ..splits import Splits


def bundled_sharpening_photos(
    scale: int = 4, crop: int = 32, crops: int = 800, eval_crop: int | None = 256, **options: Any
) -> Splits:
    """The bundled photographs reduced, to be sharpened with the mean of their colours in full resolution.

    Args:
        scale: The reduction.
        crop, crops, eval_crop, options: Of `vimzoo.data.pairs.settings.PairSettings`.

    Raises:
        UsageError: an option does not fit, or a photograph is missing.
    """
    settings = PairSettings(crop=crop, crops=crops, eval_crop=eval_crop, **options)
    name = "reduced and grey photographs (bundled with scikit-image and scikit-learn)"
    files = [(None, photo_files(split)) for split in PHOTOS]
    return settings.splits(name, files, scale, Degradation(scale), GreyGuidedPairs)


SOURCE = Source("sharpening_photos", bundled_sharpening_photos, PairSettings, targets="guided images")
