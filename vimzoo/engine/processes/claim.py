"""Locks for run folders, so that two runs never write into the same folder."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from ..checkpoints import lookup
from .job import job_start

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK, MADE_ONCE = "run.lock", "run.claim"
NO_LOCKS = {
    errno.ENOLCK,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EINVAL,
}  # what file systems without locks answer


@contextlib.contextmanager
def claimed(
    out: Path,
    asked: str | None = None,
    named: bool = True,
    own: Callable[[Path], bool] = lambda _: False,
) -> Iterator[Path]:
    """Create and lock a run folder until the end of the block; remove it if it stays empty.

    The claim is a file, locked by the system, which knows whether its owner is alive, on other machines too. A file
    system without locks makes it once; then a run that was killed leaves it. A job that its launcher starts again takes
    its own; others are refused, and the error says how to continue.

    Args:
        out: the folder.
        asked: the setting ``resume``: a run may continue in its own folder.
        named: whether the user gave that name. If not, and it is taken, the run gets the next one: ``NAME_2``.
        own: whether this run continues the one in a folder, whatever ``asked`` is.

    Raises:
        UsageError: another run writes there, or has written there and it is not the one to continue.
    """
    names = (out if number == 1 else out.with_name(f"{out.name}_{number}") for number in itertools.count(1))
    for folder in names:
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with _alone(folder, own(folder)):
                lookup.find("auto" if own(folder) else asked, folder)
                yield folder
            return
        except lookup.Taken:
            if named:
                raise
        finally:
            if made:
                with contextlib.suppress(OSError):
                    folder.rmdir()


@contextlib.contextmanager
def _alone(folder: Path, again: bool) -> Iterator[None]:
    """Hold the lock of a folder.

    Args:
        again: whether this run continues the one in the folder.

    Raises:
        Taken: another process holds it.
    """
    path = folder / LOCK
    file = None if fcntl is None else _locked(path)
    if file is None:
        path = folder / MADE_ONCE
        if again and _left_by_this_job(path):
            path.unlink(missing_ok=True)
        try:
            file = path.open("xb")
        except FileExistsError as error:
            gone = f"; if that run is gone, remove {path}"
            raise lookup.Taken(f"{folder}: another run writes there ({_owner(path)}){gone}") from error
    try:
        claim = f"{socket.gethostname()}, process {os.getpid()}", *job_start(os.environ)
        file.write("\n".join(claim).encode())
        file.flush()
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        file.close()


def _left_by_this_job(path: Path) -> bool:
    """Whether a claim is of this job as it was started before; its launcher ends it before it starts it again."""
    now = job_start(os.environ)
    try:
        _, *before = path.read_text().splitlines()
    except (OSError, ValueError):
        return False
    return bool(now) and before[:1] == now[:1] and before != now


def _locked(path: Path) -> BinaryIO | None:
    """The file, locked by this process until it is closed; None if the file system has no locks.

    Raises:
        Taken: another process has locked it.
    """
    while True:
        file = path.open("a+b")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(file, path):
                file.truncate(0)
                return file
            file.close()  # its owner has taken it away meanwhile
        except OSError as error:
            file.close()
            if error.errno in NO_LOCKS:
                with contextlib.suppress(OSError):
                    path.unlink()
                return None
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise lookup.Taken(f"{path.parent}: another run writes there ({_owner(path)})") from error


def _is(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _owner(path: Path) -> str:
    try:
        return path.read_text().partition("\n")[0] or "it has just begun"
    except OSError:
        return "it has just ended"
