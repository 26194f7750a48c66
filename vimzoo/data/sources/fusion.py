"""Two pictures of each scene from the user's folders, to be joined into one."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vimzoo.errors import UsageError

from ..pairs.crops import image_size
from ..pairs.folders import divided, image_folder_of, left_out, paired_files, split_folders_of
from ..pairs.matching import kind_folder
from ..pairs.scenes import FusedPairs, check_sides
from ..pairs.settings import Files, PairSettings
from ..record import Source
from ..splits import Splits, check_split

LAYOUT = (
    "DIR/ir with DIR/vis (or infrared, thermal, lwir, mri with visible, vi, rgb, ct, pet, spect), or "
    "DIR/{train,val[,test]}/{ir,vis}; files of a pair have one name"
)
FIRST = ("ir", "infrared", "thermal", "lwir", "mri")
OTHER = ("vis", "vi", "visible", "rgb", "ct", "pet", "spect")


def fusion_folder(
    root: str | os.PathLike[str] | None = None,
    in_chans: int = 1,
    multiple: int = 32,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split: str = "names",
    **options: Any,
) -> Splits:
    """Two pictures of each scene: DIR/ir with DIR/vis, or DIR/{train,val[,test]}/{ir,vis}.

    Splits, names of files and ``notes`` are as in `vimzoo.data.paired_folder`. The target of both is both.

    Args:
        root: DIR.
        in_chans: 1 reads grey, 3 colour.
        multiple: Sides of training crops, and of what is evaluated of a picture, are multiples of it.
        val_fraction, test_fraction, split: As in `vimzoo.data.paired_folder`.
        options: Of `PairSettings`.

    Raises:
        UsageError: as there, the pictures of a scene differ in size, or one is smaller than ``multiple``.
    """
    settings = PairSettings(in_chans=in_chans, **options)
    check_split(split)
    if settings.crop is not None and settings.crop % multiple:
        raise UsageError(f"`crop`={settings.crop}: expected a multiple of `multiple`={multiple}")
    folders, notes = split_folders_of(root, LAYOUT)
    kinds = {
        part: tuple(image_folder_of(kind_folder(folder, names, LAYOUT)) for names in (OTHER, FIRST))
        for part, folder in folders.items()
    }
    read: dict[str, Files] = {}
    for part, (other, first) in kinds.items():
        *files, scale = paired_files(other, first)
        if scale != 1:
            raise UsageError(f"`root`={root}: pictures in {first} are {scale} times as large as in {other}")
        read[part] = files[0], files[1]
    parts = divided(read, val_fraction, test_fraction, split, folders["train"], kinds["train"][1])
    check_sides({path: image_size(path) for _, files in parts for path in files}, multiple)
    data = settings.splits(str(root), parts, kind=partial(FusedPairs, multiple=multiple))
    data = replace(data, notes=(*notes, *left_out(sum(kinds.values(), ()))))
    return data.with_members(Path(str(root)).expanduser(), [first for _, first in parts])


SOURCE = Source("fusion", fusion_folder, PairSettings, targets="pictures of one scene")
