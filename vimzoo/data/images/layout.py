"""The layout of an image folder: which of its folders are splits, which are classes."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from vimzoo.errors import UsageError

from .files import Found

LAYOUT = "DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg (and DIR/test/...), or DIR/CLASS/*.jpg"
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
KINDS = {name: kind for kind, names in SPLIT_NAMES.items() for name in names}


def _kind(folder: str) -> str | None:
    """The split that a folder of that name holds, or None; ``val.lmdb`` counts as ``val``."""
    return KINDS.get(folder.lower().removesuffix(".lmdb"))


def by_folder(files: list[str]) -> dict[str, list[str]]:
    """Files grouped by first folder and relative to it; files in no folder have the key ''."""
    grouped: dict[str, list[str]] = defaultdict(list)
    for file in files:
        folder, slash, rest = file.partition("/")
        grouped[folder if slash else ""].append(rest if slash else folder)
    return dict(grouped)


def unwrapped(root: Path, found: Found) -> tuple[Path, Found]:
    """Descend into a single folder that holds everything and is not a class."""
    while len(groups := by_folder(found.files)) == 1:
        ((folder, files),) = groups.items()
        if not folder or _kind(folder) or any("/" not in file for file in files):
            break
        root = root / folder
        folders = sorted({file.partition("/")[0] for file in files})
        found = replace(found, files=files, folders=folders)
    return root, found


def split_folders(
    root: Path, files: list[str], layout: str = LAYOUT, classes: bool = True
) -> tuple[dict[str, tuple[str, list[str]]], list[str]]:
    """The folders for training, validation and test, and notes on how the layout was read.

    Args:
        root: Where the folders are. files: relative to it.
        layout: What errors say is expected.
        classes: Folders may be classes instead, so that a split holds folders; else they are one set of images.

    Returns:
        Kind -> folder and its files; nothing where the folders of ``root`` are no splits.

    Raises:
        UsageError: training is missing, is there twice, or the folders may be splits or not.
    """
    instead = "as classes" if classes else "as one set of images"
    groups = by_folder(files)
    kinds = {folder: kind for folder in groups if (kind := _kind(folder))}
    others = [folder for folder in groups if folder and folder not in kinds]
    nested = [
        folder for folder in groups if folder and (not classes or all("/" in file for file in groups[folder]))
    ]
    if not kinds or (others and not set(kinds) & set(nested)):
        _refuse_lookalikes(root, nested, instead)
        return {}, []
    if others and not {"train"} < set(kinds.values()):
        raise UsageError(
            f"`root`: {root} can be read in two ways: {', '.join(kinds)} as a split beside other folders "
            f"({', '.join(others[:5])}), or all of them {instead}; expected {layout}"
        )
    parts: dict[str, tuple[str, list[str]]] = {}
    for folder, kind in kinds.items():
        if kind in parts:
            raise UsageError(
                f"`root`: {root} has {parts[kind][0]}/ and {folder}/; expected one folder for {kind}"
            )
        parts[kind] = folder, groups[folder]
    if "train" not in parts or len(parts) == 1:
        raise UsageError(
            f"`root`={root}: found {' and '.join(kinds)}/ without its counterpart; expected {layout}"
        )
    notes = [", ".join(f"{folder}/ is {kind}" for kind, (folder, _) in parts.items())]
    if "val" not in parts:
        notes.append(f"validation images are held out of {parts['train'][0]}/")
    left = {folder or "loose files": len(groups[folder]) for folder in groups if folder not in kinds}
    if left:
        notes.append(
            "left out beside them: " + ", ".join(f"{name} ({count})" for name, count in left.items())
        )
    return parts, notes


def _refuse_lookalikes(root: Path, nested: list[str], instead: str) -> None:
    """Refuse folders such as ``seg_train`` and ``seg_test``, which hold folders and may be splits."""
    words = {folder: set(re.split(r"[^a-z]+", folder.lower())) for folder in nested}
    alike = {folder: KINDS[word] for folder in nested for word in sorted(words[folder] & set(KINDS))}
    if len(set(alike.values())) > 1 and "train" in alike.values():
        raise UsageError(
            f"`root`: {root} can be read in two ways: {', '.join(alike)} as splits, or {instead}; "
            f"expected the names {', '.join(SPLIT_NAMES)} for splits, and other folders without these words"
        )


def class_names(root: Path, files: list[str], class_folders: str | None) -> list[str]:
    """The class name of every file: its outermost folder, or with ``leaf`` the innermost one.

    Args:
        files: relative to ``root``. class_folders: ``top``, ``leaf``, or None to see which is meant.

    Raises:
        UsageError: a file stands in no folder, or both readings make sense.
    """
    parts = [file.split("/") for file in files]
    if loose := [file[0] for file in parts if len(file) == 1]:
        raise UsageError(
            f"`root`: {root} holds images outside any class folder, such as {loose[0]}; expected {LAYOUT}"
        )
    tops, leaves = [file[0] for file in parts], [file[-2] for file in parts]
    if class_folders is None and _ambiguous(parts):
        raise UsageError(
            f"`root`: {root} can be read in two ways: classes {_few(tops)} with folders inside, or classes "
            f"{_few(leaves)}; expected `class_folders`=top or `class_folders`=leaf"
        )
    return leaves if class_folders == "leaf" else tops


def _ambiguous(parts: list[list[str]]) -> bool:
    """Whether the innermost folders may be classes: every image is in one, their names are unique, and some outermost
    folder has several.
    """
    if any(len(file) == 2 for file in parts):
        return False
    inner: dict[str, set[str]] = defaultdict(set)
    for file in parts:
        inner[file[0]].add(file[1])
    several = any(len(names) > 1 for names in inner.values())
    shared = sum(map(len, inner.values())) > len(set().union(*inner.values()))
    return several and not shared


def _few(names: list[str]) -> str:
    different = list(dict.fromkeys(names))
    return ", ".join(different[:5]) + (", ..." if len(different) > 5 else "")
