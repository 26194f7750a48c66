"""Clean images from the user's folder, degraded while they are read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..pairs.degradations import Degradation
from ..pairs.folders import (
    CLEAN_LAYOUT,
    divided,
    image_files,
    image_folder_of,
    left_out,
    only_listed,
    split_folders_of,
)
from ..pairs.settings import Files, PairSettings
from ..record import Source
from ..splits import Splits, check_split


def degraded_folder(
    root: str | os.PathLike[str] | None = None,
    scale: int = 1,
    sigma: float | Sequence[float] = 0.0,
    quality: int | None = None,
    rounded: bool = False,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split: str = "names",
    meta_info: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Splits:
    """Clean images in DIR, or in DIR/{train,val[,test]}, degraded as they are read; folders may be databases.

    Args:
        root, val_fraction, test_fraction, split, meta_info, options: As in `paired_folder`.
        scale, sigma, quality, rounded: The degradation, see `vimzoo.data.pairs.degradations.Degradation`: a
            reduction (super-resolution), noise (denoising), JPEG, or any of them together.

    Raises:
        UsageError: as in `paired_folder`, or no degradation is set.
    """
    settings, degradation = PairSettings(**options), Degradation(scale, sigma, quality, rounded)
    check_split(split)
    folders, notes = split_folders_of(root, CLEAN_LAYOUT)
    folders = {part: image_folder_of(folder) for part, folder in folders.items()}
    read: dict[str, Files] = {part: (None, image_files(folder)) for part, folder in folders.items()}
    read["train"] = only_listed(read["train"], folders["train"], meta_info)
    parts = divided(read, val_fraction, test_fraction, split, folders["train"], folders["train"])
    data = settings.splits(str(root), parts, scale, degradation)
    data = replace(data, notes=(*notes, *left_out(list(folders.values()))))
    return data.with_members(Path(str(root)).expanduser(), [high for _, high in parts])


SOURCE = Source("degraded_folder", degraded_folder, PairSettings, targets="images")
