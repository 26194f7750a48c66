"""Folders and LMDB databases of images to learn restoration from, and how they are divided."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vimzoo.errors import UsageError

from ..images.files import SUFFIXES, find_pictures
from ..images.layout import split_folders, unwrapped
from ..splits import split_by_name, stratified_split
from .crops import image_size
from .matching import listed_names, matched
from .settings import Files
from .stored import is_data_base, stored_names

PAIRS_LAYOUT = (
    "DIR/low with DIR/high (or LR, LQ with HR, GT), or DIR/{train,val[,test]}/{low,high}; files of a pair have one "
    "name; folders may be LMDB databases NAME.lmdb"
)
CLEAN_LAYOUT = "images in DIR, or in DIR/{train,val[,test]}; folders may be LMDB databases NAME.lmdb"


def image_files(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """All images below ``folder``, sorted by name; links are followed, hidden files skipped.

    Those of a database are under its path, see `vimzoo.data.pairs.stored`.

    Raises:
        UsageError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UsageError(f"`root`: no folder {folder}")
    found = sorted(folder / name for name in find_pictures(folder, stored_names, suffixes).files)
    if found:
        return found
    if (folder / "data.mdb").is_file():
        raise UsageError(
            f"`root`: {folder} is an LMDB database; expected a name that ends in .lmdb, as BasicSR has it"
        )
    raise UsageError(f"`root`: no images under {folder}; expected {', '.join(suffixes)}")


def paired_files(low: Path, high: Path) -> tuple[list[Path], list[Path], int]:
    """Matching files of two folders, sorted by the names of the clean ones, and the scale between them.

    Names are matched as `vimzoo.data.pairs.matching.matched` does.

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
                f"`root`: {small} is {sizes[0]} and {large} {sizes[1]}; expected {scale} times its size"
            )
    return [small for small, _ in ordered], [large for _, large in ordered], scale


def only_listed(files: Files, folder: Path, meta_info: str | os.PathLike[str] | None) -> Files:
    """The files named in a list; all if there is no list.

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
            f"`meta_info`={meta_info}: {len(missing)} of {len(names)} names are not in {folder}: "
            f"{', '.join(missing[:3])}"
        )
    kept = [place for place, both in enumerate(own) if both & names]
    return low and [low[place] for place in kept], [high[place] for place in kept]


def image_folder_of(folder: Path) -> Path:
    """The database in a folder that holds nothing else; otherwise the folder."""
    inside = {name.partition("/")[0] for name in find_pictures(folder, stored_names).files}
    inner = folder / inside.pop() if len(inside) == 1 else folder
    return inner if is_data_base(inner) else folder


def left_out(folders: Sequence[Path], suffixes: tuple[str, ...] = SUFFIXES) -> tuple[str, ...]:
    """What is skipped in these folders, one line each."""
    said = ((folder, find_pictures(folder, stored_names, suffixes).left_out()) for folder in folders)
    return tuple(f"{folder}: {line}" for folder, line in said if line)


def split_folders_of(
    root: str | os.PathLike[str] | None, layout: str, suffixes: tuple[str, ...] = SUFFIXES
) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The folders for train, val and test with notes on the layout; only DIR, as train, if it is not divided.

    Raises:
        UsageError: DIR is missing, or can be read in two ways.
    """
    if root is None:
        raise UsageError(f"`root` is not set; expected `root`=DIR with {layout}")
    path = Path(root).expanduser()
    if not path.is_dir():
        raise UsageError(f"`root`={root}: no such folder; expected {layout}")
    inner, found = unwrapped(path, find_pictures(path, stored_names, suffixes))
    parts, notes = split_folders(inner, found.files, layout, classes=False)
    if not parts:
        return {"train": path}, ()
    notes = [*([f"read from {inner}"] if inner != path else []), *notes]
    return {kind: inner / parts[kind][0] for kind in ("train", "val", "test") if kind in parts}, tuple(notes)


def divided(
    read: dict[str, Files], val: float, test: float, split: str, root: Path, folder: Path
) -> list[Files]:
    """Files for training, validation and test; a part without a folder is split off from training.

    Args:
        read: Files by the folders there are. val, test, split, root: of the data set.
        folder: That of the clean training images, for their names.
    """
    if "val" in read:
        return list(read.values())
    if "test" not in read:
        return _split(read["train"], val, test, split, root, folder)
    return [*_split(read["train"], val, 0, split, root, folder), read["test"]]


def _split(files: Files, val: float, test: float, split: str, root: Path, folder: Path) -> list[Files]:
    """A fixed random split into training, validation and, unless its share is 0, test; all in each if that is 1."""
    low, high = files
    if test == 1:
        return [files] * 3
    try:
        labels = np.zeros(len(high), dtype=int)
        if split == "names":
            parts = split_by_name([file.relative_to(folder) for file in high], labels, val, test, ())
        else:
            parts = stratified_split(labels, val, test, names=())
    except UsageError as error:
        raise UsageError(f"`root`={root}: {error}") from error
    kept = parts[: 3 if test else 2]
    return [(low and [low[i] for i in part], [high[i] for i in part]) for part in kept]
