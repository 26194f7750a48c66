"""Restores many files: pairs inputs with outputs, and continues after files that fail."""

import functools
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vimzoo.pictures.formats import SUFFIXES, WRITTEN
from vimzoo.pictures.picture import MAX_PIXELS, PictureError
from vimzoo.pictures.reading import PAGES, picture_header, read_picture
from vimzoo.pictures.writing import check_fits, format_of, left_out, write_picture

from .memory import available_bytes
from .restorer import Progress, Restorer
from .whole import EXTRA_BANDS, restored

__all__ = ["Job", "Report", "find_jobs", "reason_of", "restore_file", "restore_files"]

_logger = logging.getLogger(__name__)

COPIES = 3
"""Most copies of a result's pixels in memory at once: the result itself and the encoder's."""


@dataclass(frozen=True)
class Job:
    """One file to read and one to write."""

    source: Path
    target: Path


@dataclass
class Report:
    """Files restored, skipped because the result exists, and failed, with reasons."""

    restored: list[Job] = field(default_factory=list)
    skipped: list[Job] = field(default_factory=list)
    failed: list[tuple[Job, str]] = field(default_factory=list)


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
    read = {_real(job.source) for job in jobs}
    for job in jobs:
        if _real(job.target) in read:
            raise ValueError(f"{job.target}: the result would replace a picture; choose another place")
        if (other := first.setdefault(job.target, job.source)) != job.source:
            raise ValueError(f"{other} and {job.source} would both become {job.target}")
    return jobs


def _folder_jobs(source: Path, target: Path, suffix: str | None) -> list[Job]:
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target}: expected a folder, as {source} is one")
    own, whole = _real(target), _real(source)
    if own == whole:
        raise ValueError(f"{target}: the results would replace the pictures; choose another folder")
    jobs: list[Job] = []
    others: Counter[str] = Counter()
    for path in sorted(_pictures(source, others)):
        if not (own.is_relative_to(whole) and _real(path).is_relative_to(own)):
            place = path.relative_to(source)
            jobs.append(Job(path, target / place.parent / _result_name(path, suffix)))
    if not jobs:
        raise ValueError(f"{source}: no pictures in it; expected files ending in {', '.join(SUFFIXES)}")
    if others:
        _logger.warning(
            "%s: left out: %d files that do not end in %s (%s)", source, others.total(), ", ".join(SUFFIXES),
            ", ".join(f"{suffix} {count}" for suffix, count in others.most_common(6)),
        )  # fmt: skip
    return jobs


def _result_name(source: Path, suffix: str | None) -> str:
    """The name of a picture's result; formats that are only read become another one, after their full name."""
    if suffix is not None:
        return source.with_suffix(suffix).name
    form = SUFFIXES.get(source.suffix.lower())
    return source.name if form is None or form.write is not None else source.name + form.instead


def _real(path: Path) -> Path:
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
        return Job(source, target / _result_name(source, suffix))
    if target.suffix.lower() not in WRITTEN:
        raise ValueError(f"{target}: expected a folder, or a file ending in {', '.join(WRITTEN)}")
    if suffix is not None and WRITTEN[target.suffix.lower()] != WRITTEN[suffix.lower()]:
        raise ValueError(f"{target}: is of another format than {suffix}")
    return Job(source, target)


def restore_files(
    jobs: Sequence[Job],
    restorer: Restorer,
    *,
    existing: str = "skip",
    quality: int = 95,
    max_pixels: int = MAX_PIXELS,
    extra_bands: str = "restore",
    pages: str = "refuse",
    quiet: bool = False,
    shared: Callable[..., Iterator[str | None]] | None = None,
) -> Report:
    """Restore files one after another, with a progress bar in input pixels.

    A file that cannot be read, restored or written is recorded, and the run continues with the next one.

    Args:
        jobs: From `find_jobs`.
        restorer: Restores each picture.
        existing: ``"skip"`` or ``"overwrite"`` results that exist already.
        quality: As in `write_picture`.
        max_pixels: As in `read_picture`.
        extra_bands: As in `restore_file`.
        pages: As in `read_picture`.
        quiet: Show neither the progress bar nor failures as they occur.
        shared: A function like ``map`` that divides the files over processes, the largest first, such as
            `vimzoo.engine.processes.sharing.share`. The process that receives its results returns the report of
            all processes.

    Raises:
        ValueError: ``existing``, ``extra_bands`` or ``pages`` is unknown.
    """
    if extra_bands not in EXTRA_BANDS:
        raise ValueError(f"extra_bands: expected one of {', '.join(EXTRA_BANDS)}, got {extra_bands!r}")
    if pages not in PAGES:
        raise ValueError(f"pages: expected one of {', '.join(PAGES)}, got {pages!r}")
    if existing not in ("skip", "overwrite"):
        raise ValueError(f"existing: expected 'skip' or 'overwrite', got {existing!r}")
    options: Any = {"quality": quality, "max_pixels": max_pixels, "extra_bands": extra_bands, "pages": pages}
    report = Report(skipped=[job for job in jobs if existing == "skip" and job.target.is_file()])
    skipped = set(report.skipped)
    work = [(job, _pixel_count(job.source)) for job in jobs if job not in skipped]
    if shared is not None:  # a large one at the end would let all others wait for one process
        work.sort(key=lambda item: item[1], reverse=True)
    reasons: dict[Job, str | None] = {}
    own: set[Job] = set()  # of this process; the other processes' progress bars are not shown
    with tqdm(total=sum(size for _, size in work), unit="px", unit_scale=True, disable=quiet) as bar:

        def tried(item: tuple[Job, int]) -> str | None:
            job, size = item
            own.add(job)
            bar.set_postfix_str(job.source.name, refresh=False)
            show = functools.partial(_show, bar, bar.n, size)
            try:
                restore_file(job, restorer, **options, progress=show)
                reason = None
            except Exception as error:  # a damaged file, a full disk or the model; the other files continue
                reason = reason_of(error)
            show(1.0)
            return reason

        for reason, (job, size) in zip((shared or map)(tried, work), work, strict=True):
            reasons[job] = reason
            if job not in own:
                bar.update(size)
            if reason is not None and not quiet:
                bar.write(f"failed: {job.source}: {reason}", file=sys.stderr)
    for job in jobs:
        if job not in reasons:
            continue
        if (reason := reasons[job]) is None:
            report.restored.append(job)
        else:
            report.failed.append((job, reason))
    return report


def restore_file(
    job: Job,
    restorer: Restorer,
    *,
    quality: int = 95,
    max_pixels: int = MAX_PIXELS,
    extra_bands: str = "restore",
    pages: str = "refuse",
    progress: Progress | None = None,
) -> None:
    """Restore one file; parent folders of the result are created.

    Args:
        job: The file to read and the one to write.
        restorer: Restores the picture.
        quality, max_pixels, pages: As in `write_picture` and `read_picture`.
        extra_bands: What to do with bands besides grey, colour and alpha: ``"restore"`` each like a grey picture,
            ``"copy"`` them, repeating pixels where the model enlarges, or ``"refuse"`` the picture.
        progress: As in `Restorer`.

    Raises:
        OSError, ValueError: the picture cannot be read or written.
        FloatingPointError, RuntimeError, MemoryError: as in `Restorer`.
    """
    picture = read_picture(job.source, max_pixels=max_pixels, pages=pages)
    height, width = picture.pixels.shape[:2]
    scale = restorer.scale
    if extra_bands == "refuse" and picture.bands is not None:
        raise PictureError(
            f"{picture.bands.shape[2]} bands besides grey or colour; --extra-bands restore or copy"
        )
    form = format_of(job.target)
    check_fits(form, width * scale, height * scale, picture)
    size = picture.pixels.nbytes + (0 if picture.bands is None else picture.bands.nbytes)
    _check_memory(size * scale**2 * (1 + len(picture.more)), width * scale, height * scale)
    _check_place(job.target)
    for said in (*picture.lost, left_out(picture, form)):
        if said:
            _logger.warning("%s: %s", job.source, said)
    result = restored(picture, restorer, extra_bands, progress, str(job.source))
    write_picture(result, job.target, quality=quality)


def _check_place(target: Path) -> None:
    """Create the folder for a result and check that it is writable, before the work is done."""
    if target.is_dir():
        raise PictureError(f"{target}: there is a folder of this name")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise PictureError(f"{target.parent}: cannot be written ({error.strerror})") from error


def _check_memory(size: int, width: int, height: int) -> None:
    free = available_bytes(torch.device("cpu"))
    if COPIES * size > free:
        raise PictureError(
            f"the result of {width} x {height} pixels takes {COPIES * size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
        )


def _pixel_count(path: Path) -> int:
    """Number of pixels according to the header, at least 1; files without a valid header fail later."""
    try:
        width, height, _ = picture_header(path)
    except Exception:
        return 1
    return max(width * height, 1)


def _show(bar: Any, before: float, size: int, share: float) -> None:
    bar.update(before + share * size - bar.n)


def reason_of(error: Exception) -> str:
    """The reason why a file failed, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {text}"
