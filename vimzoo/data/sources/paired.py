"""Pairs of degraded and clean images from the user's folders."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from vimzoo.errors import UsageError

from ..pairs.folders import (
    PAIRS_LAYOUT,
    divided,
    image_folder_of,
    left_out,
    only_listed,
    paired_files,
    split_folders_of,
)
from ..pairs.matching import HIGH_NAMES, LOW_NAMES, kind_folder
from ..pairs.settings import Files, PairSettings
from ..record import Source
from ..splits import Splits, check_split


def paired_folder(
    root: str | os.PathLike[str] | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split: str = "names",
    meta_info: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Splits:
    """Pairs of images: DIR/low with DIR/high, or DIR/{train,val[,test]}/{low,high}; folders may be databases.

    Folders of splits have the names that `vimzoo.data.image_folder` accepts; validation images are held out of training
    if there is only a test folder. The data set's ``notes`` report how the folders were read and what was left out.

    Files of a pair have one name (``low/a.png``, ``high/a.jpg``), or are named as this field does, see
    `vimzoo.data.pairs.matching.matched`; the scale is inferred from their sizes and must be the same for all.

    Args:
        root: DIR.
        val_fraction, test_fraction: Shares held out where DIR has no train and val folders; a test_fraction of 1 makes
            all images test images, to evaluate on.
        split: How these are chosen, see `vimzoo.data.splits.SPLITS`.
        meta_info: A list of the clean images to take for training, with their folders, one a line, as BasicSR writes
            them; where DIR is not divided, of all images. None takes all.
        options: Of `PairSettings`.

    Raises:
        UsageError: the folder is missing, empty or laid out otherwise, or an option does not fit.
    """
    settings = PairSettings(**options)
    check_split(split)
    folders, notes = split_folders_of(root, PAIRS_LAYOUT)
    kinds = {
        part: tuple(
            image_folder_of(kind_folder(folder, names, PAIRS_LAYOUT)) for names in (LOW_NAMES, HIGH_NAMES)
        )
        for part, folder in folders.items()
    }
    found = {part: paired_files(low, high) for part, (low, high) in kinds.items()}
    scales = sorted({scale for *_, scale in found.values()})
    if len(scales) > 1:
        raise UsageError(f"`root`={root}: images of scales {scales}; expected one scale in all folders")
    read: dict[str, Files] = {part: (low, high) for part, (low, high, _) in found.items()}
    clean = kinds["train"][1]
    read["train"] = only_listed(read["train"], clean, meta_info)
    parts = divided(read, val_fraction, test_fraction, split, folders["train"], clean)
    data = settings.splits(str(root), parts, scales[0])
    data = replace(data, notes=(*notes, *left_out(sum(kinds.values(), ()))))
    return data.with_members(Path(str(root)).expanduser(), [high for _, high in parts])


SOURCE = Source("paired", paired_folder, PairSettings, targets="images")
