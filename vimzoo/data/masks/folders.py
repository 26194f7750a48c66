"""Finds images and their masks in folders."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePath

from vimzoo.errors import UsageError

from ..images.files import SUFFIXES, find_pictures
from ..images.layout import split_folders
from ..pairs.folders import image_files, left_out, split_folders_of
from ..pairs.matching import kind_folder
from .volumes import VOLUME_SUFFIXES, is_volume

__all__ = ["MASKS_LAYOUT", "Files", "found_files"]

MASKS_LAYOUT = (
    "DIR/images with DIR/masks (or img, labels, annotations; imagesTr with labelsTr), "
    "DIR/{train,val[,test]}/{images,masks}, or DIR/{images,masks}/{train,val[,test]}; an image and its mask have one "
    "name, and the mask's may end in _mask"
)
IMAGE_NAMES = ("images", "image", "imgs", "img", "jpegimages", "leftimg8bit", "imagestr")
MASK_NAMES = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "segmentationclass", "gtfine", "gt", "labelstr",
)  # fmt: skip
"""Folders of images and of masks, in any case."""
KINDS = (*SUFFIXES, *VOLUME_SUFFIXES)
_IMAGE_END = re.compile(r"[_-](?:leftimg8bit|image|img|0000)$", re.IGNORECASE)
_MASK_END = re.compile(
    r"[_-](?:masks?|segmentation|seg|labels?|gtfine_label(?:train)?ids|gt|annotation)$", re.IGNORECASE
)

Files = tuple[list[Path], list[Path]]  # images, masks


def found_files(root: str | os.PathLike[str] | None) -> tuple[dict[str, Files], tuple[str, ...]]:
    """Images and masks of ``train`` and, where there are such folders, ``val`` and ``test``; and notes.

    Raises:
        UsageError: the folder is missing or laid out otherwise, or a file has no partner; names some of these.
    """
    folders, notes = split_folders_of(root, MASKS_LAYOUT, KINDS)
    kinds = {part: _kinds(folder) for part, folder in folders.items()}
    if "val" not in kinds and "test" not in kinds:
        inner = [
            split_folders(folder, find_pictures(folder, suffixes=KINDS).files, MASKS_LAYOUT, False)[0]
            for folder in kinds["train"]
        ]
        if all(inner):
            shared = [part for part in ("train", "val", "test") if all(part in parts for parts in inner)]
            images, masks = kinds["train"]
            kinds = {part: (images / inner[0][part][0], masks / inner[1][part][0]) for part in shared}
    files = {part: matched_files(*pair) for part, pair in kinds.items()}
    return files, (*notes, *left_out(sum(kinds.values(), ()), KINDS))


def _kinds(folder: Path) -> tuple[Path, Path]:
    return kind_folder(folder, IMAGE_NAMES, MASKS_LAYOUT), kind_folder(folder, MASK_NAMES, MASKS_LAYOUT)


def matched_files(images: Path, masks: Path) -> Files:
    """The files of two folders that belong together, in the order of the images.

    Raises:
        UsageError: a file has no partner, or several have one name.
    """
    own, marks = (
        _by_key([path.relative_to(folder) for path in image_files(folder, KINDS)], end, folder)
        for folder, end in ((images, _IMAGE_END), (masks, _MASK_END))
    )
    lonely = [
        f"files in {folder} without a partner in {other} ({len(missing)}): {', '.join(map(str, missing[:5]))}"
        for here, there, folder, other in ((own, marks, images, masks), (marks, own, masks, images))
        if (missing := [name for key, name in here.items() if key not in there])
    ]
    if lonely:
        raise UsageError(f"`root`: {'; '.join(lonely)}")
    return [images / name for name in own.values()], [masks / marks[key] for key in own]


def _stem(name: PurePath) -> str:
    """A name without its suffix, or both of ``.nii.gz``."""
    stem = name.with_suffix("").as_posix()
    return stem[: -len(".nii")] if name.suffix.lower() == ".gz" and is_volume(Path(name)) else stem


def _by_key(names: Sequence[PurePath], end: re.Pattern[str], folder: Path) -> dict[str, PurePath]:
    """Names by what an image and its mask share."""
    plain = [_stem(name) for name in names]
    keys = [end.sub("", key) for key in plain]
    if len(set(keys)) < len(keys):
        keys = plain
    found: dict[str, PurePath] = {}
    for key, name in zip(keys, names, strict=True):
        if key in found:
            raise UsageError(f"`root`: {folder} has {found[key]} and {name}; expected one file of this name")
        found[key] = name
    return found
