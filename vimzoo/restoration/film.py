"""Restores films: ``python -m vimzoo.restore film.mp4 out.mp4``."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
from tqdm import tqdm

from vimzoo.errors import UsageError, first_line
from vimzoo.files import unfinished
from vimzoo.film.encoders import CONTAINERS, check_crf, check_name
from vimzoo.film.joining import Span, check_streams, join
from vimzoo.film.light import left_out
from vimzoo.film.reading import Film, Shown
from vimzoo.film.segments import Segments
from vimzoo.film.writing import Setup

from .film_plan import planned, tried
from .film_work import SEGMENT, Range, Timing, Worker
from .frames import Frames
from .origin import identity
from .restorer import Restorer
from .stream import check_place

__all__ = ["FilmReport", "FilmRequest", "restore_film"]

_SHIFTED = ("mpegts", "mpeg")
"""Formats whose times start anywhere."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FilmRequest:
    """What is wanted of a film.

    Attributes:
        source, target: The film and its result, whose suffix decides its format.
        encoder: FFmpeg's name; None chooses one that keeps most.
        crf: The encoder's quality, 0 is best; None: its usual one.
        frames: First frame and the one after the last, counted from 0; None of them means an end of the film.
        preview: Put the original beside the result.
        hwaccel: FFmpeg's name of hardware that decodes.
        max_pixels: Refuse larger frames.

    Raises:
        UsageError: at once, if the request cannot be met whatever the model: the film cannot be opened, the encoder is
            unknown, and so on.
    """

    source: Path
    target: Path
    encoder: str | None = None
    crf: int | None = None
    frames: tuple[int, int | None] | None = None
    preview: bool = False
    hwaccel: str | None = None
    max_pixels: float = float("inf")

    def __post_init__(self) -> None:
        if self.target.suffix.lower() not in CONTAINERS:
            raise UsageError(f"{self.target}: expected a name ending in {', '.join(CONTAINERS)}")
        if self.encoder is not None:
            check_crf(check_name(self.encoder), self.crf)
        with Film(self.source, self.hwaccel) as film:
            width, height = film.video.width, film.video.height
            if width * height > self.max_pixels:
                raise UsageError(
                    f"{self.source}: {width} x {height} pixels; expected at most {self.max_pixels}"
                )
            if film.video.frames and self.first >= film.video.frames:
                raise UsageError(f"--frames {self.first}: {self.source} has {film.video.frames} frames")
        if self.target.is_dir():
            raise UsageError(f"{self.target}: there is a folder of this name")
        if self.target.exists() and self.target.samefile(self.source):
            raise UsageError(f"{self.target}: the result would replace the film; choose another place")

    @property
    def first(self) -> int:
        """The first frame that is wanted."""
        return 0 if self.frames is None else self.frames[0]

    @property
    def stop(self) -> int | None:
        """The frame after the last one; None: the end."""
        return None if self.frames is None else self.frames[1]


@dataclass
class FilmReport:
    """What became of a film: the number of frames, how many an earlier run had restored, and damage by frames."""

    frames: int = 0
    resumed: int = 0
    damage: list[str] = field(default_factory=list)


def restore_film(
    request: FilmRequest,
    restorer: Restorer,
    *,
    overwrite: bool = False,
    quiet: bool = False,
    shared: Callable[..., Iterator[int | str]] | None = None,
    main: bool = True,
) -> FilmReport:
    """Restore a film frame by frame, with a progress bar.

    Finished parts are kept in a folder beside the result until it is complete. After an interruption the same request
    continues with the first frame that is missing.

    Args:
        request: What is wanted.
        restorer: Restores each frame.
        overwrite: Discard parts that were made with another model or request.
        quiet: Show no progress bar.
        shared: A function like ``map`` that divides parts over processes, such as
            `vimzoo.engine.processes.sharing.share`.
        main: Whether this process receives the results of ``shared``; it writes the film and returns its report.

    Raises:
        UsageError: the request cannot be met; nothing has been written.
        Failure: the film's frames change their size or pixel format, or there are none.
        RuntimeError: the model failed, also for lack of memory.
    """
    target, suffix = request.target, request.target.suffix.lower()
    check_place(target.parent)
    segments = Segments(target)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        film = stack.enter_context(Film(request.source, request.hwaccel))
        bar = stack.enter_context(tqdm(unit="frame", disable=quiet or not main))
        worker = Worker(film, request.first, segments, partial(_plan, request, restorer, main), bar.update)
        copied = check_streams(film, suffix, scratch / "streams", quiet=not main)
        tried(worker.setup, worker.frames, suffix, scratch / "film")
        origin = _origin(request, restorer, worker.setup)
        restored = _all_ranges(request, worker, segments, origin, overwrite, shared, bar)
        if not main:
            return FilmReport()
        for _ in worker.until(request.stop):  # what other processes have restored
            pass
        timing = worker.timing
        if timing is None:
            segments.discard()
            raise UsageError(f"--frames {request.first}: {request.source} ends before")
        parts = segments.finished(request.first)
        with unfinished(target) as temporary, Film(request.source) as again:
            join(again, copied, parts, temporary, suffix, _span(film, timing, request), timing.last)
        segments.discard()
        frames = timing.stop - request.first
        return FilmReport(frames, frames - restored, film.damage.report())


def _plan(
    request: FilmRequest, restorer: Restorer, main: bool, film: Film, start: Shown
) -> tuple[Frames, Setup]:
    if main and (names := left_out(start.frame)):
        _logger.warning("%s: left out: %s", film.path, ", ".join(names))
    return planned(
        film,
        start,
        restorer,
        request.target.suffix.lower(),
        encoder=request.encoder,
        crf=request.crf,
        preview=request.preview,
        quiet=not main,
    )


def _all_ranges(
    request: FilmRequest,
    worker: Worker,
    segments: Segments,
    origin: dict[str, Any],
    overwrite: bool,
    shared: Callable[..., Iterator[int | str]] | None,
    bar: Any,
) -> int:
    """Restore what is in no finished part, in all processes; returns the number of frames, in the main process.

    Raises:
        RuntimeError: it failed.
    """
    given: list[Range] = []
    own: set[Range] = set()

    def ranges() -> Iterator[Range]:
        """In the main process alone."""
        segments.claim(origin, overwrite=overwrite)
        total = request.stop or worker.film.count
        done = segments.done(request.first)
        bar.total, bar.initial, bar.n = (
            total and total - request.first,
            done - request.first,
            done - request.first,
        )
        if shared is None or total is None:
            given.append((done, request.stop))
        else:
            given.extend(segments.missing(request.first, total, SEGMENT, request.stop))
        yield from given

    def attempt(wanted: Range) -> int | str:
        own.add(wanted)
        try:
            return worker(wanted)
        except Exception as error:  # raised in the main process
            if shared is None:
                raise
            return first_line(error, kind=True)

    total = 0
    for number, result in enumerate((shared or map)(attempt, ranges())):
        if isinstance(result, str):
            raise RuntimeError(result)
        total += result
        if given[number] not in own:
            bar.update(result)
    return total


def _span(film: Film, timing: Timing, request: FilmRequest) -> Span:
    if request.frames is not None:
        return Span(timing.begin, timing.begin, timing.end)
    anywhere = set(film.container.format.name.split(",")) & set(_SHIFTED)
    return Span(Fraction(film.container.start_time or 0, av.time_base) if anywhere else Fraction(0))


def _origin(request: FilmRequest, restorer: Restorer, setup: Setup) -> dict[str, Any]:
    film = request.source.stat()
    return identity(restorer) | {
        "film": [request.source.name, film.st_size, film.st_mtime_ns],
        "frames": request.frames,
        "preview": request.preview,
        "encoder": [setup.encoder.name, setup.pix_fmt, sorted(setup.options.items())],
        "dtype": str(restorer.dtype),
        "seed": restorer.seed,
    }
