"""Restores a stream of files: reading, the model and writing overlap, in bounded memory."""

from __future__ import annotations

import logging
import math
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

import torch

from vimzoo.files import FileGroup, sync_folder
from vimzoo.pictures.picture import Picture, PictureError
from vimzoo.pictures.reading import PAGES, read_picture
from vimzoo.pictures.writing import check_fits, encoded, format_of, left_out, write_picture

from .ahead import Pending, ahead
from .batches import Steps, interleaved
from .folders import Job, reason_of
from .memory import available_bytes
from .restorer import Progress, Restorer
from .whole import EXTRA_BANDS, restoring

__all__ = [
    "READERS",
    "Disk",
    "LocalDisk",
    "Options",
    "Work",
    "check_memory",
    "check_place",
    "readable",
    "restored_stream",
]

_logger = logging.getLogger(__name__)

COPIES = 3
"""Most copies of a result's pixels in memory at once: the result itself and the encoder's."""
SMALL = 64 << 20
"""Bytes of a result that are not looked for among the free ones."""
READERS, WRITERS = 2, 4
"""Threads. Those that write mostly wait for the disk."""
ENCODED_HERE = 1 << 16
"""Pixels of a result up to which it is encoded and written by the thread that runs the model."""
COMMIT_EVERY = 0.25
"""Seconds; syncing costs more than writing a small picture."""
GROUP = 32
"""Results that are committed earlier; as many again may wait for that."""
Work: TypeAlias = tuple[Job, int]
"""A file, and the number of its pixels."""


@dataclass(frozen=True)
class Options:
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


class Disk(Protocol):
    """Where pictures are read from and results are written to."""

    def opened(self, job: Job) -> Path | IO[bytes]:
        """The picture's file."""

    def check(self, job: Job) -> None:
        """Check that a result can be written, before any work is done."""

    def write(self, picture: Picture, job: Job, quality: int) -> None:
        """Write a result."""

    def store(self, content: bytes, job: Job) -> None:
        """Take a small result's file, which `commit` finishes."""

    def commit(self, jobs: Sequence[Job]) -> list[Exception | None]:
        """Make results durable; gives the error of each."""

    def discard(self) -> None:
        """Drop what is not committed."""


class LocalDisk:
    """Files of this machine, or in folders that it shares with others."""

    def __init__(self) -> None:
        self.places, self.small = set[Path](), FileGroup()

    def opened(self, job: Job) -> Path:
        """The picture's file."""
        return job.source

    def check(self, job: Job) -> None:
        """Create the folder for a result, and check that it is writable."""
        if job.target.is_dir():
            raise PictureError(f"{job.target}: there is a folder of this name")
        folder = job.target.parent
        if folder in self.places:
            return
        check_place(folder)
        self.places.add(folder)

    def write(self, picture: Picture, job: Job, quality: int) -> None:
        """Write a result, whose bytes are synced."""
        write_picture(picture, job.target, quality=quality)

    def store(self, content: bytes, job: Job) -> None:
        """Write a small result's file under another name."""
        self.small.write(job.target, content)

    def commit(self, jobs: Sequence[Job]) -> list[Exception | None]:
        """Sync small results and give them their names; sync the folders of all, so that names are durable too."""
        errors = self.small.finish(job.target for job in jobs)
        for folder in {job.target.parent for job in jobs}:
            try:
                sync_folder(folder)
            except OSError as error:
                errors |= {job.target: error for job in jobs if job.target.parent == folder}
        return [errors.get(job.target) for job in jobs]

    def discard(self) -> None:
        """Remove small results that are not committed."""
        self.small.discard()


def restored_stream(
    work: Iterator[tuple[int, Work]],
    restorer: Restorer,
    options: Options,
    disk: Disk,
    bar: Any,
    own: set[int],
) -> Generator[tuple[int, str | None]]:
    """Restore files; yields why each failed, or None when its result is on the disk.

    After an interruption those follow that are being written, before it is raised again.

    Args:
        work: Numbers, files and their pixels; taken as they are begun.
        restorer, options: As in `restore_files`.
        disk: Where the files are.
        bar: The progress bar.
        own: Gets the numbers that have been taken.
    """

    def read(item: tuple[int, Work]) -> Picture:
        return readable(item[1][0], restorer.scale, options, disk)

    def begun(read_ahead: Iterable[tuple[tuple[int, Work], Future[Picture]]]) -> Iterator[Any]:
        for (index, (job, size)), picture in read_ahead:
            own.add(index)
            bar.set_postfix_str(job.source.name, refresh=False)
            meter = _Meter(bar, size)
            steps = _steps(picture, restorer, options.extra_bands, job, meter, pending.wait)
            yield _Begun(index, job, meter), steps, size

    with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(WRITERS) as writers:
        pending = Pending[_Begun](writers)
        commits = _Commits(writers, disk)
        interrupted: KeyboardInterrupt | None = None
        try:
            try:
                pictures = ahead(readers, read, work, lambda item: item[1][1], 2 * restorer.batch + READERS)
                for one, result in interleaved(begun(pictures), restorer):
                    if isinstance(result, Exception):
                        pending.note(one, result)
                    else:
                        _begin_to_write(pending, one, result, disk, options.quality)
                    del result
                    yield from commits.told(pending.finished())
            except KeyboardInterrupt as error:
                interrupted = error
            yield from commits.told(pending.all())
            yield from commits.rest()
            if interrupted is not None:
                raise interrupted
        finally:
            readers.shutdown(wait=False, cancel_futures=True)
            for _ in commits.rest():  # whoever asked has gone
                pass
            disk.discard()


@dataclass(frozen=True)
class _Begun:
    """A file in work: its number, and where its progress is shown."""

    index: int
    job: Job
    meter: _Meter


def _begin_to_write(pending: Pending[_Begun], one: _Begun, result: Picture, disk: Disk, quality: int) -> None:
    """Write in a thread; small pictures are encoded in this one, which takes less than to wake another for it."""
    size = result.pixels.shape[0] * result.pixels.shape[1]
    if size > ENCODED_HERE:
        pending.add(one, size, disk.write, result, one.job, quality)
        return
    try:
        disk.store(encoded(result, one.job.target, quality), one.job)
    except Exception as error:
        pending.note(one, error)
    else:
        pending.note(one)


class _Commits:
    """Tells of files when they are durable; a thread commits those of `COMMIT_EVERY` seconds at once."""

    def __init__(self, pool: Executor, disk: Disk) -> None:
        self.pool, self.disk = pool, disk
        self.written = deque[_Begun]()
        self.running: Future[list[tuple[_Begun, Exception | None]]] | None = None
        self.hurry = threading.Event()

    def told(self, done: Iterable[tuple[_Begun, Exception | None]]) -> Iterator[tuple[int, str | None]]:
        """Take finished files; gives those that have failed, and those that are durable by now."""
        for one, error in done:
            if error is None:
                self.written.append(one)
            else:
                yield self._tell(one, error)
        if len(self.written) >= GROUP:
            self.hurry.set()
        if self.running is not None and (self.running.done() or len(self.written) >= 2 * GROUP):
            yield from self._committed(self.running)
        if self.running is None and self.written:
            self.running = self.pool.submit(self._commit)

    def rest(self) -> Iterator[tuple[int, str | None]]:
        """All that are left, when they are durable."""
        while self.running is not None or self.written:
            self.hurry.set()
            yield from self._committed(self.running or self.pool.submit(self._commit))

    def _commit(self) -> list[tuple[_Begun, Exception | None]]:
        self.hurry.wait(COMMIT_EVERY)
        self.hurry.clear()
        group = [self.written.popleft() for _ in range(len(self.written))]
        return list(zip(group, self.disk.commit([one.job for one in group]), strict=True))

    def _committed(
        self, running: Future[list[tuple[_Begun, Exception | None]]]
    ) -> Iterator[tuple[int, str | None]]:
        group, self.running = running.result(), None
        for one, error in group:
            yield self._tell(one, error)

    def _tell(self, one: _Begun, error: Exception | None) -> tuple[int, str | None]:
        one.meter(1.0)
        return one.index, None if error is None else reason_of(error)


def _steps(
    reading: Future[Picture],
    restorer: Restorer,
    extra_bands: str,
    job: Job,
    progress: Progress,
    wait: Callable[[], None],
) -> Steps[Picture]:
    picture = reading.result()
    check_memory(picture, restorer.scale, wait)
    return (yield from restoring(picture, restorer, extra_bands, progress, str(job.source)))


def readable(job: Job, scale: int, options: Options, disk: Disk) -> Picture:
    """Read a picture, and check that its result can be written, before any work is done."""
    picture = read_picture(disk.opened(job), max_pixels=options.max_pixels, pages=options.pages)
    if job.other is not None:
        picture = replace(picture, other=read_picture(job.other, max_pixels=math.inf, pages=options.pages))
    height, width = picture.pixels.shape[:2]
    if options.extra_bands == "refuse" and picture.bands is not None:
        raise PictureError(
            f"{picture.bands.shape[2]} bands besides grey or colour; --extra-bands restore or copy"
        )
    form = format_of(job.target)
    check_fits(form, width * scale, height * scale, picture)
    disk.check(job)
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


def check_memory(picture: Picture, scale: int, wait: Callable[[], None] = lambda: None) -> None:
    """Check that a result fits into the memory, if need be when ``wait`` has waited until others are written."""
    bands = 0 if picture.bands is None else picture.bands.nbytes
    size = (picture.pixels.nbytes + bands) * scale**2 * (1 + len(picture.more))
    if size < SMALL or COPIES * size <= available_bytes(torch.device("cpu")):
        return
    wait()
    if COPIES * size > (free := available_bytes(torch.device("cpu"))):
        height, width = (side * scale for side in picture.pixels.shape[:2])
        needed = COPIES * size / 1e9
        raise PictureError(
            f"the result of {width} x {height} pixels takes {needed:.1f} GB, {free / 1e9:.1f} GB are free"
        )


class _Meter:
    """Shows a picture's share of the work in a progress bar."""

    def __init__(self, bar: Any, size: int) -> None:
        self.bar, self.size, self.shown = bar, size, 0

    def __call__(self, share: float) -> None:
        done = round(share * self.size)  # shares would add up to slightly more than the whole
        self.bar.update(done - self.shown)
        self.shown = done
