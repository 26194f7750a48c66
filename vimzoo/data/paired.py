"""A user's own images to learn restoration from: folders of pairs, or clean images that are degraded on the fly."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .degradations import Degradation
from .files import SUFFIXES, find_pictures
from .layout import SPLIT_NAMES
from .pair_settings import Files, PairSettings
from .pairing import HIGH_NAMES, LOW_NAMES, kind_folder, listed_names, matched
from .pairs import image_size
from .splits import Splits, UsageError, check_split, split_by_name, stratified_split

__all__ = ["degraded_folder", "image_files", "paired_files", "paired_folder"]

PAIRS_LAYOUT = (
    "DIR/low with DIR/high (or LR, LQ with HR, GT), or DIR/{train,val[,test]}/{low,high}; files of a pair have one "
    "name"
)
CLEAN_LAYOUT = "images in DIR, or in DIR/{train,val[,test]}"


def image_files(folder: Path) -> list[Path]:
    """All image files below ``folder``, in order of their names; links are followed, hidden files left out.

    Raises:
        UsageError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UsageError(f"data.root: no folder {folder}")
    found = sorted(folder / name for name in find_pictures(folder).files)
    if found:
        return found
    if (folder / "data.mdb").is_file():
        raise UsageError(
            f"data.root: {folder} is an LMDB data base; expected the image files that it was made from"
        )
    raise UsageError(f"data.root: no images under {folder}; expected {', '.join(SUFFIXES)}")


def paired_files(low: Path, high: Path) -> tuple[list[Path], list[Path], int]:
    """Degraded and clean files of two folders in the order of the clean ones' names, and the scale between them.

    Names are matched as `vimzoo.data.pairing.matched` does.

    Raises:
        UsageError: a file has no partner, or sizes do not fit one scale; names the file.
    """
    names = ([path.relative_to(folder) for path in image_files(folder)] for folder in (low, high))
    try:
        ordered = [(low / small, high / large) for small, large in matched(*names)]
    except UsageError as error:
        raise UsageError(f"{error} (low/ is {low}, high/ is {high})") from error
    heights = [image_size(path)[0] for path in ordered[0]]
    scale = max(1, round(heights[1] / heights[0]))
    for small, large in ordered:
        sizes = image_size(small), image_size(large)
        if any(not s * scale <= b < (s + 1) * scale for s, b in zip(*sizes, strict=True)):
            raise UsageError(
                f"data.root: {small} is {sizes[0]} and {large} {sizes[1]}; expected {scale} times its size"
            )
    return [small for small, _ in ordered], [large for _, large in ordered], scale


def _only_listed(files: Files, folder: Path, meta_info: str | None) -> Files:
    """The files whose names a list has; all without a list.

    Raises:
        UsageError: it names an image that is not in the folder.
    """
    if meta_info is None:
        return files
    names, (low, high) = set(listed_names(meta_info)), files
    own = [
        {path.relative_to(folder).as_posix(), path.relative_to(folder).with_suffix("").as_posix()}
        for path in high
    ]
    if missing := sorted(names - set().union(*own)):
        raise UsageError(
            f"data.meta_info={meta_info}: {len(missing)} of {len(names)} names are not in {folder}: "
            f"{', '.join(missing[:3])}"
        )
    kept = [place for place, both in enumerate(own) if both & names]
    return low and [low[place] for place in kept], [high[place] for place in kept]


def _left_out(folders: Sequence[Path]) -> tuple[str, ...]:
    """What of these folders is not read, a line each."""
    said = ((folder, find_pictures(folder).left_out()) for folder in folders)
    return tuple(f"{folder}: {line}" for folder, line in said if line)


def _folders(root: str | None, layout: str) -> list[Path]:
    """The folders for training, validation and, where there is one, test; DIR alone if it is not divided."""
    if root is None:
        raise UsageError(f"data.root is not set; expected data.root=DIR with {layout}")
    path = Path(root).expanduser()
    if not path.is_dir():
        raise UsageError(f"data.root={root}: no such folder; expected {layout}")
    held = next((path / name for name in SPLIT_NAMES["val"] if (path / name).is_dir()), None)
    if held is None and not (path / "train").is_dir():
        return [path]
    if held is None or not (path / "train").is_dir():
        raise UsageError(f"data.root={root}: one of train/ and val/ without the other; expected {layout}")
    return [path / "train", held, *(path / name for name in ("test",) if (path / name).is_dir())]


def _split(files: Files, val: float, test: float, split: str, root: Path, folder: Path) -> list[Files]:
    """A fixed random split of all images into training, validation and test; all of them everywhere if test is 1."""
    low, high = files
    if test == 1:
        return [files] * 3
    try:
        labels = np.zeros(len(high), dtype=int)
        if split == "names":
            parts = split_by_name([file.relative_to(folder) for file in high], labels, val, test, [root.name])
        else:
            parts = stratified_split(labels, val, test, names=[root.name])
    except UsageError as error:
        raise UsageError(f"data.root={root}: {error}") from error
    return [(low and [low[i] for i in part], [high[i] for i in part]) for part in parts]


def paired_folder(
    root: str | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split: str = "names",
    meta_info: str | None = None,
    **options: Any,
) -> Splits:
    """Pairs of images: DIR/low with DIR/high, or DIR/{train,val[,test]}/{low,high}.

    Files of a pair have one name (``low/a.png``, ``high/a.jpg``), or are named as this field does, see
    `vimzoo.data.pairing.matched`; the scale is told by their sizes, and must be one for all.

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
    folders = _folders(root, PAIRS_LAYOUT)
    kinds = [
        tuple(kind_folder(folder, names, PAIRS_LAYOUT) for names in (LOW_NAMES, HIGH_NAMES))
        for folder in folders
    ]
    found = [paired_files(low, high) for low, high in kinds]
    scales = sorted({scale for *_, scale in found})
    if len(scales) > 1:
        raise UsageError(f"data.root={root}: images of scales {scales}; expected one scale in all folders")
    parts: list[Files] = [(low, high) for low, high, _ in found]
    parts[0] = _only_listed(parts[0], kinds[0][1], meta_info)
    if len(parts) == 1:
        parts = _split(parts[0], val_fraction, test_fraction, split, folders[0], kinds[0][1])
    data = replace(settings.splits(str(root), parts, scales[0]), notes=_left_out(sum(kinds, ())))
    return data.with_members(Path(str(root)).expanduser(), [high for _, high in parts])


def degraded_folder(
    root: str | None = None,
    scale: int = 1,
    sigma: float = 0.0,
    quality: int | None = None,
    rounded: bool = False,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split: str = "names",
    meta_info: str | None = None,
    **options: Any,
) -> Splits:
    """Clean images in DIR, or in DIR/{train,val[,test]}, degraded as they are read.

    Args:
        root, val_fraction, test_fraction, split, meta_info, options: As in `paired_folder`.
        scale, sigma, quality, rounded: What is to be undone, see `vimzoo.data.degradations.Degradation`: a
            reduction (super-resolution), noise (denoising), JPEG, or any of them together.

    Raises:
        UsageError: as there; there is nothing to undo.
    """
    settings, degradation = PairSettings(**options), Degradation(scale, sigma, quality, rounded)
    check_split(split)
    folders = _folders(root, CLEAN_LAYOUT)
    parts: list[Files] = [(None, image_files(folder)) for folder in folders]
    parts[0] = _only_listed(parts[0], folders[0], meta_info)
    if len(parts) == 1:
        parts = _split(parts[0], val_fraction, test_fraction, split, folders[0], folders[0])
    data = settings.splits(str(root), parts, scale, degradation)
    return data.with_members(Path(str(root)).expanduser(), [high for _, high in parts])
