"""Atomic writes of files and folders. Imports nothing from this package."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
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


class FileGroup:
    """Atomic writes of several files, which are synced together in less time than one after the other."""

    def __init__(self) -> None:
        self._begun: dict[Path, tuple[Path, IO[bytes]]] = {}

    def write(self, path: Path, content: bytes) -> None:
        """Write a file beside ``path``; `finish` gives it this name.

        Raises:
            OSError: it cannot be written.
        """
        temporary = path.with_name(f".{uuid.uuid4().hex}.part")
        file = temporary.open("xb", buffering=0)
        try:
            if file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._begun[path] = temporary, file
        except BaseException:
            file.close()
            remove(temporary)
            raise

    def finish(self, paths: Iterable[Path]) -> dict[Path, OSError]:
        """Sync files that `write` has written, and give them their names; other paths are passed over.

        Returns:
            The errors of those that failed, which are removed.
        """
        begun = [(path, *self._begun.pop(path)) for path in paths if path in self._begun]
        errors: dict[Path, OSError] = {}
        if hasattr(os, "posix_fadvise"):
            for _, _, file in begun:  # the disk begins with all of them before the first is waited for
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for path, temporary, file in begun:
            try:
                with file:
                    os.fsync(file.fileno())
                temporary.replace(path)
            except OSError as error:
                errors[path] = error
                remove(temporary)
        return errors

    def discard(self) -> None:
        """Remove what is not finished."""
        while self._begun:
            _, (temporary, file) = self._begun.popitem()
            file.close()
            remove(temporary)


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
