"""A local cache of remote data, in a folder that any number of processes may share."""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vimzoo.files import unfinished

FULL = 0.95  # of the disk in use, from which on nothing more is kept


class Kept:
    """Contents by name, one file each, written atomically.

    Args:
        folder: made when something is put there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str) -> bytes | None:
        """The contents under a name, or None."""
        try:
            return self._path(name).read_bytes()
        except OSError:
            return None

    def put(self, name: str, content: bytes) -> None:
        """Store contents under a name, if there is disk space."""
        path = self._path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if _full(path.parent):
                return
            with unfinished(path) as part:
                part.write_bytes(content)
        except OSError as error:
            _warn(self.folder, error)

    def _path(self, name: str) -> Path:
        digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=16).hexdigest()
        return self.folder / digest[:2] / digest[2:]


class KeptParts:
    """Contents by number, all in one file at fixed places, so that millions of them need no files of their own.

    An entry is valid once its CRC-32 has been written, into a second file, after the contents. Entries that a killed
    process left unfinished are read from the server again.

    Args:
        path: the files are ``path.parts`` and ``path.sums``. sizes: of all contents in bytes, (N,).
    """

    def __init__(self, path: Path, sizes: Sequence[int] | np.ndarray) -> None:
        self.path, self.places = path, np.cumsum([0, *sizes])

    def get(self, number: int) -> bytes | None:
        """Contents; None if there are none."""
        try:
            with open(f"{self.path}.sums", "rb") as file:
                file.seek(4 * number)
                wanted = int.from_bytes(file.read(4), "little")
            if not wanted:
                return None
            with open(f"{self.path}.parts", "rb") as file:
                file.seek(self.places[number])
                content = file.read(self.places[number + 1] - self.places[number])
        except OSError:
            return None
        return content if _sum(content) == wanted else None

    def put(self, number: int, content: bytes) -> None:
        """Store contents, if there is disk space."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not _full(self.path.parent):
                _write(f"{self.path}.parts", int(self.places[number]), content)
                _write(f"{self.path}.sums", 4 * number, _sum(content).to_bytes(4, "little"))
        except OSError as error:
            _warn(self.path.parent, error)


def _write(path: str, place: int, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b") as file:
        file.seek(place)
        file.write(content)


def _sum(content: bytes) -> int:
    return zlib.crc32(content) or 1  # 0 is where nothing was written


def _full(folder: Path) -> bool:
    usage = shutil.disk_usage(folder)
    if full := usage.free < (1 - FULL) * usage.total:
        _warn(folder, f"{FULL:.0%} of its disk is in use")
    return full


def _warn(folder: Path, why: object) -> None:
    warnings.warn(f"{folder}: the cache is full ({why}); the rest is read from the server", stacklevel=4)
