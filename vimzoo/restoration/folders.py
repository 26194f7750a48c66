"""The files of a run: which picture becomes which file."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vimzoo.pictures.formats import SUFFIXES, WRITTEN

__all__ = ["Interrupted", "Job", "Report", "find_jobs", "real_place", "reason_of", "result_name"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One file to read and one to write; ``other`` is a second one to read, see `vimzoo.restoration.two_pictures`."""

    source: Path
    target: Path
    other: Path | None = None


@dataclass
class Report:
    """Files restored, skipped because the result exists, failed, with reasons, and left after an interruption."""

    restored: list[Job] = field(default_factory=list)
    skipped: list[Job] = field(default_factory=list)
    failed: list[tuple[Job, str]] = field(default_factory=list)
    left: list[Job] = field(default_factory=list)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with the report of what is done."""

    def __init__(self, report: Report) -> None:
        self.report = report


def find_jobs(source: Path, target: Path, suffix: str | None = None) -> list[Job]:
    """Inputs and outputs of a run, sorted by name.

    Args:
        source: A picture, or a folder with pictures at any depth. Hidden files and linked folders are skipped. Dangling
            links and unreadable folders are included so that they are reported.
        target: For a picture, a name with a known suffix or a folder. For a folder, a folder that gets the same tree;
            if it is inside the input, its pictures are not used as input.
        suffix: Format of the results, such as ``".png"``; None keeps each picture's own, and writes those that are only
            read, such as ``a.bmp``, as ``a.bmp.png``.

    Raises:
        ValueError: there is nothing to restore, a result would replace a picture that is read, or two pictures would
            become one file.
    """
    if suffix is not None and suffix.lower() not in WRITTEN:
        raise ValueError(f"suffix: expected one of {', '.join(WRITTEN)}, got {suffix}")
    if source.is_dir():
        jobs = _folder_jobs(source, target, suffix)
    elif source.is_file():
        jobs = [_single_job(source, target, suffix)]
    else:
        raise ValueError(f"{source}: no such file or folder")
    first: dict[Path, Path] = {}
    read = {real_place(job.source) for job in jobs}
    for job in jobs:
        if real_place(job.target) in read:
            raise ValueError(f"{job.target}: the result would replace a picture; choose another place")
        if (other := first.setdefault(job.target, job.source)) != job.source:
            raise ValueError(f"{other} and {job.source} would both become {job.target}")
    return jobs


def _folder_jobs(source: Path, target: Path, suffix: str | None) -> list[Job]:
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target}: expected a folder, as {source} is one")
    own, whole = real_place(target), real_place(source)
    if own == whole:
        raise ValueError(f"{target}: the results would replace the pictures; choose another folder")
    jobs: list[Job] = []
    others: Counter[str] = Counter()
    for path in sorted(_pictures(source, others)):
        if not (own.is_relative_to(whole) and real_place(path).is_relative_to(own)):
            place = path.relative_to(source)
            jobs.append(Job(path, target / place.parent / result_name(path, suffix)))
    if not jobs:
        raise ValueError(f"{source}: no pictures in it; expected files ending in {', '.join(SUFFIXES)}")
    if others:
        _logger.warning(
            "%s: left out: %d files that do not end in %s (%s)", source, others.total(), ", ".join(SUFFIXES),
            ", ".join(f"{suffix} {count}" for suffix, count in others.most_common(6)),
        )  # fmt: skip
    return jobs


def result_name(source: Path, suffix: str | None) -> str:
    """The name of a picture's result; formats that are only read become another one, after their full name."""
    if suffix is not None:
        return source.with_suffix(suffix).name
    form = SUFFIXES.get(source.suffix.lower())
    return source.name if form is None or form.write is not None else source.name + form.instead


def real_place(path: Path) -> Path:
    """Resolve links; circular links, on which Path.resolve fails, stay as they are."""
    return Path(os.path.realpath(path))


def _pictures(folder: Path, others: Counter[str]) -> Iterator[Path]:
    """Files with a picture's suffix at any depth, and unreadable folders; counts ``others`` by suffix."""
    closed: list[Path] = []

    def note(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise ValueError(f"{folder}: cannot be listed ({error.strerror})") from error
        closed.append(Path(error.filename))

    for place, below, files in os.walk(folder, onerror=note):
        below[:] = [name for name in below if not name.startswith(".")]
        for path in (Path(place, name) for name in files if not name.startswith(".")):
            usable = path.is_file() or not path.exists()  # no pipes, which would be waited for
            if usable and path.suffix.lower() in SUFFIXES:
                yield path
            elif usable:
                others[path.suffix.lower() or "without suffix"] += 1
    yield from closed


def _single_job(source: Path, target: Path, suffix: str | None) -> Job:
    if source.suffix.lower() not in SUFFIXES and target.suffix.lower() not in WRITTEN and suffix is None:
        raise ValueError(f"{source}: expected a file ending in {', '.join(SUFFIXES)}")
    if target.is_dir() or not target.suffix:
        return Job(source, target / result_name(source, suffix))
    if target.suffix.lower() not in WRITTEN:
        raise ValueError(f"{target}: expected a folder, or a file ending in {', '.join(WRITTEN)}")
    if suffix is not None and WRITTEN[target.suffix.lower()] != WRITTEN[suffix.lower()]:
        raise ValueError(f"{target}: is of another format than {suffix}")
    return Job(source, target)


def reason_of(error: Exception) -> str:
    """The reason why a file failed, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {text}"
