"""Atomic writes of files and folders. Imports nothing from this package."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def unfinished(path: Path, suffix: str = ".part") -> Iterator[Path]:
    """A temporary path beside ``path`` for a file or folder, which is renamed to ``path`` when the block ends.

    If the block raises, the temporary file or folder is removed and ``path`` is unchanged.

    Args:
        path: The final name. An existing file is replaced.
        suffix: Suffix of the temporary name, for libraries that depend on it.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}{suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        remove(temporary)
        raise


@contextlib.contextmanager
def whole_file(path: Path, mode: str = "wb", **options: Any) -> Iterator[IO[Any]]:
    """An atomic write: a new file that replaces ``path`` when the block ends, synced to the disk; see `unfinished`.

    Args:
        path: The final name.
        mode: ``"wb"`` or ``"w"``; the file can be read too.
        options: Options of `open`.
    """
    with unfinished(path) as temporary, temporary.open(mode.replace("w", "x+"), **options) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def remove(path: Path) -> None:
    """Remove a file or folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, where the system allows opening one and the file system syncing it."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
