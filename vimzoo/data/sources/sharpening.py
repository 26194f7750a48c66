"""Images of many bands and finer ones of few from the user's folders, to be sharpened."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from vimzoo.errors import UsageError

from ..pairs.folders import divided, image_folder_of, left_out, paired_files, split_folders_of
from ..pairs.matching import kind_folder
from ..pairs.scenes import SharpenedPairs, read_bands
from ..pairs.settings import Files, PairSettings
from ..record import Source
from ..splits import Splits, check_split

LAYOUT = (
    "DIR/ms with DIR/pan (or multispectral, hsi, lr with panchromatic, rgb, guide), and DIR/gt if there is one, or "
    "DIR/{train,val[,test]}/{ms,pan[,gt]}; files of one scene have one name"
)
COARSE = ("ms", "multispectral", "hsi", "lr")
FINE = ("pan", "panchromatic", "rgb", "guide")
TRUTH = ("gt", "hr")


class BandSettings(PairSettings):
    """Options of images of any number of bands."""

    any_bands: ClassVar[bool] = True


def sharpening_folder(
    root: str | os.PathLike[str] | None = None,
    peak: float | None = None,
    in_chans: int | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split: str = "names",
    **options: Any,
) -> Splits:
    """Images of many bands and finer ones: DIR/ms with DIR/pan, or DIR/{train,val[,test]}/{ms,pan}.

    Beside them DIR/gt may hold the many bands in the finer resolution, which are then learned. Without it both images
    are reduced by the scale between them, and the original is learned (Wald et al. 1997). Splits, names of files and
    ``notes`` are as in `vimzoo.data.paired_folder`.

    Args:
        root: DIR.
        peak: The number in files that becomes 1, such as 2047 for 11 bits; None is the largest of their type.
        in_chans: Bands; None counts those of the first image.
        val_fraction, test_fraction, split: As in `vimzoo.data.paired_folder`.
        options: Of `PairSettings`; ``crop`` is of the image that is learned.

    Raises:
        UsageError: as there, or the images of a scene do not fit.
    """
    BandSettings(in_chans=in_chans or 1, **options)
    check_split(split)
    if peak is not None and not peak > 0:
        raise UsageError(f"`peak`={peak}: expected a positive number, or `None` for the largest of the type")
    folders, notes = split_folders_of(root, LAYOUT)
    scenes = {part: _scenes(folder) for part, folder in folders.items()}
    scales = {scale for found in scenes.values() for scale in found.scales}
    if len(scales) > 1 or scales == {1}:
        raise UsageError(
            f"`root`={root}: finer images are {' and '.join(map(str, sorted(scales)))} times as large; expected one "
            "number of at least 2"
        )
    if len({found.files[0] is None for found in scenes.values()}) > 1:
        raise UsageError(f"`root`={root}: a folder gt in some splits; expected one in all or none")
    read, (scale,) = {part: found.files for part, found in scenes.items()}, scales
    parts = divided(read, val_fraction, test_fraction, split, folders["train"], scenes["train"].folders[-1])
    guides = {target: guide for found in scenes.values() for target, guide in found.guides.items()}
    if in_chans is None:
        in_chans = read_bands(read["train"][1][0]).shape[2]
    settings = BandSettings(in_chans=in_chans, **options)
    kind = partial(SharpenedPairs, guides=guides, peak=peak)
    data = settings.splits(str(root), parts, scale, kind=kind)
    data = replace(data, notes=(*notes, *left_out([at for found in scenes.values() for at in found.folders])))
    return data.with_members(Path(str(root)).expanduser(), [high for _, high in parts])


class _Scenes(NamedTuple):
    """The files of a split: coarse images, if they are given, and targets; the guide of each target.

    Of ``folders`` the last one holds the targets.
    """

    files: Files
    guides: dict[Path, Path]
    scales: set[int]
    folders: tuple[Path, ...]


def _scenes(folder: Path) -> _Scenes:
    coarse, fine = (image_folder_of(kind_folder(folder, names, LAYOUT)) for names in (COARSE, FINE))
    low, guides, scale = paired_files(coarse, fine)
    if not any(path.name.lower() in TRUTH for path in folder.iterdir()):
        return _Scenes((None, low), dict(zip(low, guides, strict=True)), {scale}, (fine, coarse))
    truth = image_folder_of(kind_folder(folder, TRUTH, LAYOUT))
    ordered, targets, other = paired_files(coarse, truth)
    guide = dict(zip(low, guides, strict=True))
    by_target = {target: guide[path] for path, target in zip(ordered, targets, strict=True)}
    return _Scenes((ordered, targets), by_target, {scale, other}, (coarse, fine, truth))


SOURCE = Source("sharpening", sharpening_folder, BandSettings, targets="guided images")
