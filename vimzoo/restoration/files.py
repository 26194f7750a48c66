"""Restores files: reading, the model and writing overlap, and a file that fails does not stop the others."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from os.path import isfile  # False of a name that is too long
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

from vimzoo.pictures.picture import MAX_PIXELS
from vimzoo.pictures.reading import picture_header

from .folders import Interrupted, Job, Report
from .restorer import Progress, Restorer
from .stream import READERS, LocalDisk, Options, Work, check_memory, readable, restored_stream
from .whole import restored

__all__ = ["restore_file", "restore_files"]

Shared: TypeAlias = Callable[
    [Callable[[Iterator[tuple[int, Work]]], Iterator[tuple[int, str | None]]], Sequence[Work]],
    Generator[tuple[int, str | None]],
]


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
    shared: Shared | None = None,
) -> Report:
    """Restore files, with a progress bar in input pixels.

    The next files are read and finished ones are written in threads while the model runs, and tiles of different
    pictures share its batches. A file that cannot be read, restored or written is recorded, and the run continues. A
    file counts as restored when its result is on the disk.

    Args:
        jobs: From `find_jobs`.
        restorer: Restores each picture.
        existing: ``"skip"`` or ``"overwrite"`` results that exist already.
        quality: As in `write_picture`.
        max_pixels: As in `read_picture`.
        extra_bands: As in `restore_file`.
        pages: As in `read_picture`.
        quiet: Show neither the progress bar nor failures as they occur.
        shared: Divides the files over processes, the largest first, such as
            `vimzoo.engine.processes.sharing.share_stream`. The process that receives its results returns the report of
            all processes.

    Raises:
        ValueError: ``existing``, ``extra_bands`` or ``pages`` is unknown.
        Interrupted: the user has pressed Ctrl-C; what is written is complete, and the report has it.
    """
    options = Options(quality, max_pixels, extra_bands, pages)
    if existing not in ("skip", "overwrite"):
        raise ValueError(f"existing: expected 'skip' or 'overwrite', got {existing!r}")
    report = Report(skipped=[job for job in jobs if existing == "skip" and isfile(job.target)])
    skipped = set(report.skipped)
    left = [job for job in jobs if job not in skipped]
    with ThreadPoolExecutor(READERS) as pool:
        work = list(zip(left, pool.map(_pixel_count, [job.source for job in left]), strict=True))
    if shared is not None:  # a large one at the end would let all others wait for one process
        work.sort(key=lambda item: item[1], reverse=True)
    reasons: dict[Job, str | None] = {}
    with tqdm(total=sum(size for _, size in work), unit="px", unit_scale=True, disable=quiet) as bar:
        own: set[int] = set()  # of this process; the other processes' progress bars are not shown
        stream = functools.partial(
            restored_stream, restorer=restorer, options=options, disk=LocalDisk(), bar=bar, own=own
        )
        interrupted: KeyboardInterrupt | None = None
        try:
            with contextlib.closing((shared or _alone)(stream, work)) as answers:
                for index, reason in answers:
                    job, size = work[index]
                    reasons[job] = reason
                    if index not in own:
                        bar.update(size)
                    if reason is not None and not quiet:
                        bar.write(f"failed: {job.source}: {reason}", file=sys.stderr)
        except KeyboardInterrupt as error:
            interrupted = error
    for job in left:
        if job not in reasons:  # of an interruption, or in a process that does not get the results
            report.left.append(job)
        elif (reason := reasons[job]) is None:
            report.restored.append(job)
        else:
            report.failed.append((job, reason))
    if interrupted is not None:
        raise Interrupted(report) from interrupted
    return report


def _alone(stream: Any, work: Sequence[Work]) -> Generator[tuple[int, str | None]]:
    return stream(enumerate(work))


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
    disk = LocalDisk()
    picture = readable(job, restorer.scale, Options(quality, max_pixels, extra_bands, pages), disk)
    check_memory(picture, restorer.scale)
    disk.write(restored(picture, restorer, extra_bands, progress, str(job.source)), job, quality)
    disk.commit([job])


def _pixel_count(path: Path) -> int:
    """Number of pixels according to the header, at least 1; files without a valid header fail later."""
    try:
        width, height, _ = picture_header(path)
    except Exception:
        return 1
    return max(width * height, 1)
