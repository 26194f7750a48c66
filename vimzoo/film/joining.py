"""Joins the parts of a film, and copies sound, subtitles, chapters, attachments and tags from the original."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from vimzoo.errors import UsageError, first_line

from .reading import ATTACHED, Film
from .writing import FORMATS, created

__all__ = ["Span", "check_streams", "join"]

_logger = logging.getLogger(__name__)

_COVERS = {"mjpeg": "jpeg", "png": "png"}
_OWN = (
    "major_brand",
    "minor_version",
    "compatible_brands",
    "encoder",
    "duration",
    "bps",
    "number_of_",
    "_statistics",
)
_OWN_OF_STREAMS = (*_OWN, "rotate", "alpha_mode", "vendor_id")


@dataclass(frozen=True)
class Span:
    """The time that a result shows, in seconds of the original.

    Attributes:
        shift: Subtracted from all times.
        start, end: What is copied of other streams; None: everything.
    """

    shift: Fraction = Fraction(0)
    start: Fraction | None = None
    end: Fraction | None = None

    def holds(self, time: Fraction | None) -> bool:
        """Whether a packet of this time belongs to it."""
        if self.start is None or self.end is None or time is None:
            return self.start is None
        return self.start <= time < self.end


def _described(stream: Any) -> str:
    codec = stream.codec_context.name if stream.codec_context is not None else None
    known = [codec, *(stream.metadata.get(name) for name in ("language", "filename"))]
    words = ", ".join(word for word in known if word)
    return f"{stream.type} stream {stream.index}" + (f" ({words})" if words else "")


def _kept(metadata: dict[str, str], own: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in metadata.items() if not name.lower().startswith(own)}


def _alpha(metadata: dict[str, str]) -> dict[str, str]:
    """The mark of VP9 with transparency."""
    return {name: value for name, value in metadata.items() if name.lower() == "alpha_mode"}


def _text_to_subrip(stream: Any, suffix: str) -> bool:
    context = stream.codec_context
    return suffix == ".mkv" and context is not None and context.name == "mov_text"


def _is_cover(stream: Any) -> bool:
    """Whether a stream of pictures is one that players show instead of sound."""
    return stream.type == "video" and bool(stream.disposition & ATTACHED)


def _is_attached(stream: Any, suffix: str) -> bool:
    """Whether a copy of a stream has no packets."""
    return stream.type == "attachment" or (_is_cover(stream) and FORMATS[suffix] == "matroska")


def _first_packet(stream: Any) -> bytes:
    with av.open(stream.container.name) as container:
        return bytes(next(container.demux(container.streams[stream.index])))


def _copy_of(stream: Any, output: Any, suffix: str) -> Any:
    """A stream of the output that takes the packets of another file's stream."""
    if _is_cover(stream) and FORMATS[suffix] == "matroska":
        kind = _COVERS[stream.codec_context.name]
        name = stream.metadata.get("filename", f"cover.{kind}")
        return output.add_attachment(name, f"image/{kind}", _first_packet(stream))
    if _text_to_subrip(stream, suffix):
        copy = output.add_mux_stream("subrip")
        copy.time_base = stream.time_base
    else:
        copy = output.add_stream_from_template(stream, opaque=True)
    copy.metadata.update(_kept(dict(stream.metadata), _OWN_OF_STREAMS))
    copy.disposition = stream.disposition
    return copy


def check_streams(film: Film, suffix: str, scratch: Path, *, quiet: bool = False) -> list[int]:
    """The streams that a result can hold besides the pictures; warns of what is left out.

    Args:
        film: The original.
        suffix: Of the result.
        scratch: A file that is written to find out.
        quiet: Do not warn.

    Raises:
        UsageError: sound or subtitles do not fit into such a file.
    """
    copied: list[int] = []
    left_out: list[str] = []
    chapters = film.container.chapters()
    for stream in film.container.streams:
        if stream.index == film.video.index:
            continue
        if stream.type in ("data", "unknown"):
            # FFmpeg writes MP4's tracks of chapters and of the timecode anew
            if not (chapters and stream.name == "bin_data") and "timecode" not in stream.metadata:
                left_out.append(_described(stream))
            continue
        try:
            with av.open(str(scratch), "w", format=FORMATS[suffix]) as output:
                _copy_of(stream, output, suffix)
                output.start_encoding()
            copied.append(stream.index)
        except (KeyError, OSError, ValueError, RuntimeError) as error:
            if stream.type in ("audio", "subtitle"):
                other = "" if suffix == ".mkv" else ", such as .mkv"
                raise UsageError(
                    f"{film.path}: {_described(stream)} does not fit into {suffix} ({first_line(error)}); "
                    f"expected another kind of file{other}, or a film without it"
                ) from error
            left_out.append(_described(stream))
        else:
            if stream.type == "video" and not _is_cover(stream) and not quiet:
                _logger.warning("%s: %s is copied as it is", film.path, _described(stream))
    if left_out and not quiet:
        _logger.warning("%s: left out: %s", film.path, ", ".join(left_out))
    return copied


def join(
    film: Film,
    copied: Sequence[int],
    parts: Sequence[Path],
    target: Path,
    suffix: str,
    span: Span,
    last: Fraction,
) -> None:
    """Write a result.

    Args:
        film: The original, opened anew; its packets are read.
        copied: From `check_streams`.
        parts: Files with the pictures, in order.
        target: The file to write, of any name.
        suffix: Decides its format.
        span: The time to copy.
        last: How long the last frame is shown, in seconds.
    """
    with ExitStack() as stack:
        first = stack.enter_context(av.open(str(parts[0]))).streams.video[0]
        output = stack.enter_context(created(target, suffix, film.time_base))
        output.metadata.update(_kept(dict(film.container.metadata), _OWN))
        if span.start is None:
            output.set_chapters(film.container.chapters())
        streams = {}
        for stream in film.container.streams:  # in the order of the original
            if stream.index == film.video.index:
                pictures = output.add_stream_from_template(first, opaque=True)
                pictures.codec_context.framerate = film.rate
                pictures.metadata.update(_kept(dict(film.video.metadata), _OWN_OF_STREAMS))
                pictures.metadata.update(_alpha(first.metadata))
                pictures.disposition = film.video.disposition
            elif stream.index in copied:
                streams[stream.index] = _copy_of(stream, output, suffix)
        output.start_encoding()
        streams[film.video.index] = pictures
        shown = _pictures(parts, span, last, film.video.index)
        for timed in _by_time(shown, _others(film, copied, span, suffix)):
            timed.packet.stream = streams[timed.stream]
            output.mux(timed.packet)


@dataclass(frozen=True)
class _Timed:
    """A packet, its time in seconds, and its stream in the original."""

    packet: Any
    time: Fraction
    stream: int


def _timed(packet: Any, stream: int) -> _Timed:
    number = packet.dts if packet.dts is not None else packet.pts
    return _Timed(packet, Fraction(0) if number is None else number * packet.time_base, stream)


def _by_time(pictures: Iterator[_Timed], others: Iterator[_Timed]) -> Iterator[_Timed]:
    """Packets of both, the earlier one first."""
    own, other = next(pictures, None), next(others, None)
    while own is not None or other is not None:
        if own is None or (other is not None and other.time < own.time):
            assert other is not None
            yield other
            other = next(others, None)
        else:
            yield own
            own = next(pictures, None)


def _pictures(parts: Sequence[Path], span: Span, last: Fraction, stream: int) -> Iterator[_Timed]:
    held = None
    for packet in _packets(parts):
        _shift(packet, span)
        if held is not None:
            held.duration = packet.pts - held.pts
            yield _timed(held, stream)
        held = packet
    if held is not None:
        held.duration = round(last / held.time_base)
        yield _timed(held, stream)


def _packets(parts: Sequence[Path]) -> Iterator[Any]:
    for part in parts:
        with av.open(str(part)) as container:
            yield from (packet for packet in container.demux(container.streams.video[0]) if packet.size)


def _others(film: Film, copied: Sequence[int], span: Span, suffix: str) -> Iterator[_Timed]:
    streams = [
        film.container.streams[i] for i in copied if not _is_attached(film.container.streams[i], suffix)
    ]
    for packet in film.container.demux(streams) if streams else ():
        time = None if packet.pts is None else packet.pts * packet.time_base
        if packet.size and span.holds(time) and not _is_gap(packet):
            _shift(packet, span)
            text = _text_to_subrip(packet.stream, suffix)
            yield _timed(_as_subrip(packet) if text else packet, packet.stream_index)


def _is_gap(packet: Any) -> bool:
    """Whether it is the empty text that fills a pause in MP4, where FFmpeg writes such packets itself."""
    context = packet.stream.codec_context
    return context is not None and context.name == "mov_text" and bytes(packet) == b"\0\0"


def _as_subrip(packet: Any) -> Any:
    """A packet of mov_text as SubRip: the text after its length, without styles."""
    content = bytes(packet)
    copy = av.Packet(content[2 : 2 + int.from_bytes(content[:2], "big")])
    for name in ("time_base", "pts", "dts", "duration"):
        setattr(copy, name, getattr(packet, name))
    return copy


def _shift(packet: Any, span: Span) -> None:
    by = round(span.shift / packet.time_base)
    if by and packet.pts is not None:
        packet.pts -= by
    if by and packet.dts is not None:
        packet.dts -= by
