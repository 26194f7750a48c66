"""Photographs that ship with scikit-image and scikit-learn as two pictures of each scene, without a download."""

from __future__ import annotations

from typing import Any

from ..pairs.photos import PHOTOS, photo_files
from ..pairs.scenes import FocusPairs
from ..pairs.settings import PairSettings
from ..record import Source
from ..splits import Splits


def bundled_fusion_photos(
    crop: int = 64, crops: int = 800, in_chans: int = 1, eval_crop: int | None = 256, **options: Any
) -> Splits:
    """The bundled photographs, each as two pictures with another half out of focus, to be joined.

    Args:
        crop, crops, in_chans, eval_crop, options: Of `vimzoo.data.pairs.settings.PairSettings`.

    Raises:
        UsageError: an option does not fit, or a photograph is missing.
    """
    settings = PairSettings(crop=crop, crops=crops, in_chans=in_chans, eval_crop=eval_crop, **options)
    name = "two pictures each of photographs (bundled with scikit-image and scikit-learn)"
    return settings.splits(name, [(None, photo_files(split)) for split in PHOTOS], kind=FocusPairs)


SOURCE = Source("fusion_photos", bundled_fusion_photos, PairSettings, targets="pictures of one scene")
