"""Restores files: reading, the model and writing overlap, and a file that fails does not stop the others."""

from __future__ import annotations

import functools
import logging
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from tqdm import tqdm

from vimzoo.files import FolderSync
from vimzoo.pictures.picture import MAX_PIXELS, Picture, PictureError
from vimzoo.pictures.reading import PAGES, picture_header, read_picture
from vimzoo.pictures.writing import check_fits, format_of, left_out, write_picture

from .ahead import Pending, ahead
from .batches import Steps, interleaved
from .folders import Job, Report, reason_of
from .memory import available_bytes
from .restorer import Progress, Restorer
from .whole import EXTRA_BANDS, restored, restoring

__all__ = ["restore_file", "restore_files"]

_logger = logging.getLogger(__name__)

COPIES = 3
"""Most copies of a result's pixels in memory at once: the result itself and the encoder's."""
SMALL = 64 << 20
"""Bytes of a result that are not looked for among the free ones."""
READERS, WRITERS = 2, 4
"""Threads. Those that write mostly wait for the disk, and what several wait for is written at once."""
Work: TypeAlias = tuple[Job, int]
"""A file, and the number of its pixels."""
Shared: TypeAlias = Callable[
    [Callable[[Iterator[tuple[int, Work]]], Iterator[tuple[int, str | None]]], Sequence[Work]],
    Iterator[tuple[int, str | None]],
]


@dataclass(frozen=True)
class _Options:
    """What `restore_files` is asked for."""

    quality: int
    max_pixels: int
    extra_bands: str
    pages: str

    def __post_init__(self) -> None:
        if self.extra_bands not in EXTRA_BANDS:
            raise ValueError(
                f"extra_bands: expected one of {', '.join(EXTRA_BANDS)}, got {self.extra_bands!r}"
            )
        if self.pages not in PAGES:
            raise ValueError(f"pages: expected one of {', '.join(PAGES)}, got {self.pages!r}")


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
    """
    options = _Options(quality, max_pixels, extra_bands, pages)
    if existing not in ("skip", "overwrite"):
        raise ValueError(f"existing: expected 'skip' or 'overwrite', got {existing!r}")
    report = Report(skipped=[job for job in jobs if existing == "skip" and job.target.is_file()])
    skipped = set(report.skipped)
    left = [job for job in jobs if job not in skipped]
    with ThreadPoolExecutor(READERS) as pool:
        work = list(zip(left, pool.map(_pixel_count, [job.source for job in left]), strict=True))
    if shared is not None:  # a large one at the end would let all others wait for one process
        work.sort(key=lambda item: item[1], reverse=True)
    reasons: dict[Job, str | None] = {}
    with tqdm(total=sum(size for _, size in work), unit="px", unit_scale=True, disable=quiet) as bar:
        own: set[int] = set()  # of this process; the other processes' progress bars are not shown
        stream = functools.partial(_stream, restorer=restorer, options=options, bar=bar, own=own)
        for index, reason in (shared or _alone)(stream, work):
            job, size = work[index]
            reasons[job] = reason
            if index not in own:
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


def _alone(stream: Any, work: Sequence[Work]) -> Iterator[tuple[int, str | None]]:
    return stream(enumerate(work))


def _stream(
    work: Iterator[tuple[int, Work]], restorer: Restorer, options: _Options, bar: Any, own: set[int]
) -> Iterator[tuple[int, str | None]]:
    """Restore files as they are claimed; yields why each failed, or None when its result is on the disk."""
    sync, places = FolderSync(), set[Path]()

    def read(item: tuple[int, Work]) -> Picture:
        return _read(item[1][0], restorer.scale, options, places)

    def begun(read_ahead: Iterable[tuple[tuple[int, Work], Future[Picture]]]) -> Iterator[Any]:
        for (index, (job, size)), picture in read_ahead:
            own.add(index)
            bar.set_postfix_str(job.source.name, refresh=False)
            meter = _Meter(bar, size)
            yield (index, job, meter), _steps(picture, restorer, options.extra_bands, job, meter), size

    def write(result: Picture, job: Job) -> None:
        write_picture(result, job.target, quality=options.quality)
        sync.wait(job.target.parent)

    def told(done: Iterable[tuple[tuple[int, _Meter], Exception | None]]) -> Iterator[tuple[int, str | None]]:
        for (index, meter), error in done:
            meter(1.0)
            yield index, None if error is None else reason_of(error)

    with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(WRITERS) as writers:
        pending = Pending[tuple[int, _Meter]](writers)
        try:
            pictures = ahead(readers, read, work, lambda item: item[1][1], 2 * restorer.batch + READERS)
            for (index, job, meter), result in interleaved(begun(pictures), restorer):
                if isinstance(result, Exception):
                    pending.fail((index, meter), result)
                else:
                    size = result.pixels.shape[0] * result.pixels.shape[1]
                    pending.add((index, meter), size, write, result, job)
                del result
                yield from told(pending.finished())
            yield from told(pending.all())
        finally:
            readers.shutdown(wait=False, cancel_futures=True)


def _steps(
    picture: Future[Picture], restorer: Restorer, extra_bands: str, job: Job, progress: Progress
) -> Steps[Picture]:
    return (yield from restoring(picture.result(), restorer, extra_bands, progress, str(job.source)))


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
    picture = _read(job, restorer.scale, _Options(quality, max_pixels, extra_bands, pages), set())
    write_picture(
        restored(picture, restorer, extra_bands, progress, str(job.source)), job.target, quality=quality
    )


def _read(job: Job, scale: int, options: _Options, places: set[Path]) -> Picture:
    """Read a picture, and check that its result can be written, before any work is done.

    Args:
        places: Folders that have been checked; gets those of this result.
    """
    picture = read_picture(job.source, max_pixels=options.max_pixels, pages=options.pages)
    height, width = picture.pixels.shape[:2]
    if options.extra_bands == "refuse" and picture.bands is not None:
        raise PictureError(
            f"{picture.bands.shape[2]} bands besides grey or colour; --extra-bands restore or copy"
        )
    form = format_of(job.target)
    check_fits(form, width * scale, height * scale, picture)
    size = picture.pixels.nbytes + (0 if picture.bands is None else picture.bands.nbytes)
    _check_memory(size * scale**2 * (1 + len(picture.more)), width * scale, height * scale)
    if job.target.is_dir():
        raise PictureError(f"{job.target}: there is a folder of this name")
    if job.target.parent not in places:
        check_place(job.target.parent)
        places.add(job.target.parent)
    for said in (*picture.lost, left_out(picture, form)):
        if said:
            _logger.warning("%s: %s", job.source, said)
    return picture


def check_place(folder: Path) -> None:
    """Create a folder for results and check that it is writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PictureError(f"{folder}: cannot be written ({error.strerror})") from error


def _check_memory(size: int, width: int, height: int) -> None:
    if size < SMALL:
        return
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


class _Meter:
    """Shows a picture's share of the work in a progress bar."""

    def __init__(self, bar: Any, size: int) -> None:
        self.bar, self.size, self.shown = bar, size, 0.0

    def __call__(self, share: float) -> None:
        self.bar.update(share * self.size - self.shown)
        self.shown = share * self.size
