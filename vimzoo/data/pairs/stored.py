"""Images in LMDB databases written by BasicSR, addressed like files: ``GT.lmdb/baby.png``."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, BinaryIO, cast

from vimzoo.errors import UsageError

from .matching import listed_names

__all__ = ["SUFFIX", "is_data_base", "opened", "stored_names"]

SUFFIX = ".lmdb"
"""Suffix of database folders, in any case."""
_one_at_a_time = RLock()  # a process may open a database once


def is_data_base(folder: Path) -> bool:
    """Whether a folder is an LMDB database by its name and its file."""
    return folder.suffix.lower() == SUFFIX and (folder / "data.mdb").is_file()


def stored_names(folder: Path) -> list[str] | None:
    """The names in a database's ``meta_info.txt``, with suffixes; None for any other folder.

    Raises:
        UsageError: the list is missing, unreadable or empty.
    """
    if not is_data_base(folder):
        return None
    return listed_names(str(folder / "meta_info.txt"), f"`root`: {folder / 'meta_info.txt'}")


@contextmanager
def opened(path: Path, buffering: int = -1) -> Iterator[BinaryIO]:
    """An image to read from: a file, or what a database holds under its name without suffix.

    The database is open only for as long, so that processes may be forked or spawned at any time.

    Args:
        path: The file, or the folder of a database and a name in it.
        buffering: Of files, as ``open`` has it.

    Raises:
        UsageError: the database cannot be read, does not hold the name, or its package is missing.
        OSError: the file cannot be opened.
    """
    folder = next((parent for parent in path.parents if is_data_base(parent)), None)
    if folder is None:
        with path.open("rb", buffering) as file:
            yield cast(BinaryIO, file)
        return
    key = path.relative_to(folder).with_suffix("").as_posix()
    with _one_at_a_time, _environment(folder) as environment, environment.begin(buffers=True) as transaction:
        if (value := transaction.get(key.encode())) is None:
            raise UsageError(
                f"{path}: {folder.name} holds no {key!r}, but its meta_info.txt lists it; expected the list that "
                "was written with it"
            )
        with memoryview(value) as view, _Bytes(view) as stream:
            yield cast(BinaryIO, stream)


def _environment(folder: Path) -> Any:
    """Open a database for reading."""
    try:
        import lmdb
    except ImportError as error:
        raise UsageError(
            f"`root`: {folder} is an LMDB database; pip install 'vimzoo[lmdb]' installs what reads it ({error})"
        ) from error
    try:
        environment = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, create=False)
    except lmdb.Error as error:
        raise UsageError(f"`root`: {folder}: not a readable LMDB database ({error})") from error
    # Pages beyond the end of a file that was copied in part would end the process (SIGBUS)
    expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if (size := (folder / "data.mdb").stat().st_size) < expected:
        environment.close()
        raise UsageError(f"`root`: {folder / 'data.mdb'} is cut off: {size} bytes, expected {expected}")
    return environment


class _Bytes(io.RawIOBase):
    """A file over a memory view without copying, so that reading a header does not read the whole image."""

    def __init__(self, view: memoryview) -> None:
        self.view, self.position = view, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        part = self.view[self.position : self.position + len(target)]
        target[: len(part)] = part
        self.position += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = max(0, offset + (0, self.position, len(self.view))[whence])
        return self.position
