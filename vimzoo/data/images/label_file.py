"""Labels from a CSV file, for images that are not in class folders."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from vimzoo.errors import UsageError

from .layout import KINDS, SPLIT_NAMES

COLUMNS = ("file", "label", "split")
Listed = dict[str, tuple[list[str], list[str]]]
"""Kind of split -> files relative to the root, and their labels; under the empty name where the file tells no split."""


def read_labels(root: Path, path: Path, pictures: list[str]) -> tuple[Listed, list[str]]:
    """Labels, and optionally splits, of pictures from a CSV file with the columns ``file``, ``label`` and ``split``.

    Args:
        pictures: below ``root``, relative to it.

    Returns:
        The files by split, and notes for the user: pictures of ``root`` that are not listed.

    Raises:
        UsageError: the file cannot be read, lacks a column, names a picture that does not exist, names one twice, or
            names an unknown split.
    """
    listed: Listed = {}
    seen: set[str] = set()
    found = set(pictures)
    for number, row in enumerate(_rows(path), start=2):
        name, label, split = (row.get(column) for column in COLUMNS)
        where = f"`labels`={path}, line {number}"
        if not name or not label:
            raise UsageError(f"{where}: expected a file and a label, got {name!r} and {label!r}")
        file = os.path.normpath(name).replace(os.sep, "/")
        if file in seen:
            raise UsageError(f"{where}: {name} is listed a second time")
        if file not in found and not (isinstance(root, Path) and (root / file).is_file()):
            raise UsageError(f"{where}: no file {root / file}")
        kind = KINDS.get(split.strip().lower()) if split else ""
        if kind is None:
            raise UsageError(f"{where}: split {split!r}; expected one of {', '.join(SPLIT_NAMES)}")
        seen.add(file)
        files, labels = listed.setdefault(kind, ([], []))
        files.append(file)
        labels.append(label)
    if not listed or ("" in listed and len(listed) > 1) or ("" not in listed and "train" not in listed):
        raise UsageError(
            f"`labels`={path}: expected pictures for training, each with a split or none with one"
        )
    more = len(found - seen)
    return listed, [f"{more} pictures of {root} are not listed in {path.name}"] if more else []


def _rows(path: Path) -> list[dict[str, str | None]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"`labels`={path}: cannot be read ({error})") from error
    if missing := {"file", "label"} - set(columns):
        raise UsageError(
            f"`labels`={path}: no column {', '.join(sorted(missing))} in its first line ({', '.join(columns)}); "
            f"expected {', '.join(COLUMNS)}, the last if it divides the pictures"
        )
    return rows
