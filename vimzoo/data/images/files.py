"""Finding the images below a folder: which files, in which order, and what is skipped."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from vimzoo.errors import UsageError
from vimzoo.pictures.formats import SUFFIXES as FORMATS


def readable_suffixes() -> tuple[str, ...]:
    """Suffixes of image files that can be read with the installed packages."""
    return tuple(
        suffix for suffix, form in FORMATS.items() if form.package is None or find_spec(form.package)
    )


SUFFIXES = readable_suffixes()
"""Suffixes of image files, in any case."""
UNSEEN = {
    "__MACOSX",
    "@eaDir",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    "Thumbs.db",
    "desktop.ini",
}


@dataclass
class Found:
    """What a folder holds.

    Attributes:
        files: pictures at any depth, relative to the folder with ``/``, in natural order.
        folders: its folders, hidden ones left out.
        others: files that are no pictures, by suffix. hidden: hidden files and folders.
        suffixes: of pictures.
    """

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    suffixes: tuple[str, ...] = SUFFIXES

    def add(self, name: str) -> None:
        """Count a file as an image or not, by its suffix."""
        if (suffix := os.path.splitext(name)[1].lower()) in self.suffixes:
            self.files.append(name)
        else:
            self.others[suffix or "without suffix"] += 1

    def sorted(self) -> Found:
        """The same, in natural order."""
        self.files.sort(key=natural_key)
        self.folders.sort(key=natural_key)
        return self

    def left_out(self) -> str | None:
        """One line on the files that are skipped; None if there are none."""
        said = []
        if self.others:
            kinds = ", ".join(f"{kind} {count}" for kind, count in self.others.most_common(6))
            said.append(
                f"{self.others.total()} files that do not end in {', '.join(self.suffixes[:4])}, ... ({kinds})"
            )
        if self.hidden:
            said.append(f"{self.hidden} hidden files or folders")
        return f"left out: {' and '.join(said)}" if said else None


def hidden(name: str) -> bool:
    """Whether a file or folder is not the user's: ``.ipynb_checkpoints``, ``._x.jpg`` of macOS, ``.DS_Store``."""
    return name.startswith(".") or name in UNSEEN


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Key for natural sorting (``img2`` before ``img10``), case-insensitive and without ties."""
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


Names = Callable[[Path], list[str] | None]


def find_pictures(folder: Path, stored: Names | None = None, suffixes: tuple[str, ...] = SUFFIXES) -> Found:
    """All pictures below a folder. Links are followed, but not to a folder that holds the link.

    Args:
        folder: Where to look.
        stored: Tells the pictures of a folder that is a database; None for one to look into, as all are without it.
        suffixes: Of the files that are looked for, in lower case.

    Raises:
        UsageError: a folder cannot be listed.
    """
    found = Found(suffixes=suffixes)
    _walk(str(folder), "", frozenset(), found, stored)
    return found.sorted()


def _walk(folder: str, prefix: str, above: frozenset[str], found: Found, stored: Names | None) -> None:
    if stored is not None and (names := stored(Path(folder))) is not None:
        found.files.extend(prefix + name for name in names)
        return
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        with os.scandir(folder) as listing:
            entries = list(listing)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be listed ({error.strerror})") from error
    for entry in entries:
        name = prefix + entry.name
        if hidden(entry.name):
            found.hidden += 1
        elif entry.is_dir():
            if not prefix:
                found.folders.append(name)
            _walk(entry.path, f"{name}/", above | {real}, found, stored)
        elif not entry.is_file():
            found.others["links to nothing or devices"] += 1
        else:
            found.add(name)
