"""Restores films: ``python -m vimzoo.restore film.mp4 out.mp4``."""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from tqdm import tqdm

from vimzoo.errors import Failure, UsageError
from vimzoo.files import unfinished
from vimzoo.film.encoders import CONTAINERS, check_crf, check_name
from vimzoo.film.joining import Span, check_streams, join
from vimzoo.film.light import left_out
from vimzoo.film.planes import planes_of
from vimzoo.film.reading import Film, Shown
from vimzoo.film.recording import Recorder
from vimzoo.film.segments import Segments
from vimzoo.film.writing import Setup

from .files import check_place
from .film_plan import planned, tried
from .frames import Frames
from .origin import identity
from .restorer import Restorer

__all__ = ["FilmReport", "FilmRequest", "restore_film"]

SEGMENT = 48
"""Frames per part; as many are lost at most when a run is killed."""
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
    request: FilmRequest, restorer: Restorer, *, overwrite: bool = False, quiet: bool = False
) -> FilmReport:
    """Restore a film frame by frame, with a progress bar.

    Finished parts are kept in a folder beside the result until it is complete. After an interruption the same request
    continues with the first frame that is missing.

    Args:
        request: What is wanted.
        restorer: Restores each frame.
        overwrite: Discard parts that were made with another model or request.
        quiet: Show no progress bar.

    Raises:
        UsageError: the request cannot be met; nothing has been written.
        Failure: the film's frames change their size or pixel format, or there are none.
        FloatingPointError, RuntimeError, MemoryError: as in `Restorer`.
    """
    target, suffix = request.target, request.target.suffix.lower()
    check_place(target.parent)
    report = FilmReport()
    with Film(request.source, request.hwaccel) as film, tempfile.TemporaryDirectory() as scratch:
        shown = film.frames()
        start = next(shown, None)
        if start is None:
            raise UsageError(f"{request.source}: no frame can be decoded ({'; '.join(film.damage.report())})")
        frames, setup = planned(
            film, start, restorer, suffix, encoder=request.encoder, crf=request.crf, preview=request.preview
        )
        copied, missing = check_streams(film, suffix, Path(scratch) / "streams")
        tried(setup, frames, suffix, Path(scratch) / "film")
        if missing := missing + left_out(start.frame):
            _logger.warning("%s: left out: %s", request.source, ", ".join(missing))
        segments = Segments(target, _origin(request, restorer, setup), overwrite=overwrite)
        work = _chosen(itertools.chain([start], shown), film, request)
        timing = _restored(work, film, frames, setup, segments, request, report, quiet)
        parts = segments.finished(request.first)
        with unfinished(target) as temporary, Film(request.source) as again:
            join(again, copied, parts, temporary, suffix, _span(film, timing, request), timing.last)
        segments.discard()
        report.damage = film.damage.report()
    return report


@dataclass
class _Timing:
    """When the first frame is shown and the last one ends, and how long that is shown, in seconds."""

    begin: Fraction
    end: Fraction
    last: Fraction


def _chosen(shown: Iterator[Shown], film: Film, request: FilmRequest) -> Iterator[Shown]:
    """The frames that are wanted, which are all alike."""
    alike = None
    for each in shown:
        kind = f"{each.frame.width} x {each.frame.height} {each.frame.format.name}"
        alike = alike or kind
        if kind != alike:
            raise Failure(f"frame {each.number} is of {kind}; expected {alike} as before")
        if request.stop is not None and each.number >= request.stop:
            return
        if each.number >= request.first:
            yield each


def _restored(
    work: Iterator[Shown],
    film: Film,
    frames: Frames,
    setup: Setup,
    segments: Segments,
    request: FilmRequest,
    report: FilmReport,
    quiet: bool,
) -> _Timing:
    """Restore all frames that are in no finished part."""
    done = segments.done(request.first)
    total = request.stop or film.count
    report.resumed = done - request.first
    bar = tqdm(total=total and total - request.first, initial=report.resumed, unit="frame", disable=quiet)
    timing = None
    with bar, Recorder(segments, setup, done, SEGMENT) as recorder:
        for each in work:
            begin, last = each.pts * film.time_base, each.duration * film.time_base
            timing = _Timing(begin if timing is None else timing.begin, begin + last, last)
            report.frames += 1
            if each.number >= done:
                planes = frames(planes_of(each.frame, frames.layout), each.frame.interlaced_frame)
                recorder.write(setup.frame(planes, each.pts), each.duration)
                bar.update()
        recorder.close()
    if timing is None:
        raise UsageError(f"--frames {request.first}: {film.path} ends before")
    return timing


def _span(film: Film, timing: _Timing, request: FilmRequest) -> Span:
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
