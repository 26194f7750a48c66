"""Small films of every kind, and what a film holds, as lists of plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from torch import Tensor

from vimzoo.film.layout import Layout
from vimzoo.film.planes import frame_of, planar
from vimzoo.restoration import Restorer
from vimzoo.restoration.film import FilmReport, FilmRequest, restore_film

WIDTH, HEIGHT, FRAMES = 48, 32, 8
EVEN = tuple(500 * i for i in range(FRAMES))
VARIABLE = (0, 500, 1000, 1750, 3000, 3250, 3500, 5000)
UNIT = Fraction(1, 12_000)
LIGHT = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
BT709 = dict(color_range=1, colorspace=1, color_primaries=1, color_trc=1)
BT601 = dict(color_range=1, colorspace=6, color_primaries=6, color_trc=6)
PQ = dict(color_range=1, colorspace=9, color_primaries=9, color_trc=16)
FIELDS = {"crf": "0", "flags": "+ilme+ildct"}
DEEP = {"x265-params": f"log-level=error:master-display={LIGHT}:max-cll=1000,400"}
TURNED = (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
MIRRORED = (-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
LATE = dict(times=VARIABLE, last=1000)
EVERYTHING = dict(sound=("ger", "eng"), chapters=True)
SMALL = dict(codec="libx265", size=(64, 64), pix_fmt="yuv420p10le", options=DEEP, tags=PQ)
WITH_ALPHA = dict(codec="libvpx-vp9", pix_fmt="yuva420p", options={"lossless": "1", "auto-alt-ref": "0"})
LOSSLESS: dict[str, Any] = dict(crf=0)
Pictures = Callable[[int, Layout, int, int], list[Tensor]]


def moving(number: int, layout: Layout, height: int, width: int) -> list[Tensor]:
    """A pattern that changes from frame to frame, of code values in the middle of the range."""
    planes = []
    for i, (rows, columns) in enumerate(layout.sizes(height, width)):
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        wave = torch.sin((x + 2 * number) / (3.0 + i)) + torch.cos((y + number) / (2.0 + i))
        planes.append(((wave + 2) / 4 * 0.6 + 0.2).mul(2**layout.bits - 1).round())
    return planes


def film(
    path: Path,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (WIDTH, HEIGHT),
    times: Sequence[int] = EVEN,
    last: int = 500,
    options: dict[str, str] | None = None,
    tags: dict[str, int] | None = None,
    pictures: Pictures = moving,
    matrix: Sequence[int] | None = None,
    aspect: Fraction | None = None,
    field_order: int = 0,
    sound: Sequence[str] = (),
    subtitles: str | None = None,
    chapters: bool = False,
    font: bool = False,
    hidden: int = 0,
    cover: bool = False,
) -> Path:
    """Write a film.

    Args:
        times: When each frame is shown, in units of `UNIT`; ``hidden`` frames come before them.
        last: Duration of the last frame.
        sound: Languages of the sound tracks.
        subtitles: Codec of the subtitles.
        hidden: Frames that an edit list hides.
        cover: Whether there is one, beside a second stream of pictures that stands still.
    """
    container_options = {"avoid_negative_ts": "disabled"} if hidden else {}
    with av.open(str(path), "w", container_options=container_options) as out:
        stream = out.add_stream(codec, rate=Fraction(24), options=options or {"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        context = stream.codec_context
        context.time_base = UNIT
        for name, value in (tags or {}).items():
            setattr(context, name, value)
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        context.field_order = field_order
        if matrix is not None:
            stream.set_display_matrix(list(matrix))
        others = [_sound(out, path, language) for language in sound]
        text = _text(out, subtitles) if subtitles else None
        stills = [_still(out), _still(out)] if cover else []
        if stills:
            stills[0].disposition = av.stream.Disposition.attached_pic
        if font:
            out.add_attachment("Some.ttf", "font/ttf", b"\0\1\0\0 not a font")
        if chapters:
            out.set_chapters([_chapter(1, 0, 150, "Ouverture"), _chapter(2, 150, 330, "Finale")])
            out.metadata["title"] = "A film"
        layout = planar(pix_fmt)
        durations = {}
        shown = [500 * (i - hidden) for i in range(hidden)] + list(times)
        for number, (pts, following) in enumerate(zip(shown, [*shown[1:], shown[-1] + last], strict=True)):
            frame = frame_of(pictures(number - hidden, layout, size[1], size[0]), pix_fmt)
            for name, value in (tags or {}).items():
                setattr(frame, name, value)
            frame.pts, frame.time_base = pts, UNIT
            durations[pts] = following - pts
            _mux(out, stream.encode(frame), durations)
        _mux(out, stream.encode(None), durations)
        for still in stills:
            out.mux(still.encode(av.VideoFrame(32, 32, "yuvj420p")))
            out.mux(still.encode(None))
        for number, other in enumerate(others):
            for packet in _samples(other, number):
                out.mux(packet)
        if text is not None:
            _lines(out, text, subtitles)
    return path


def _mux(out: Any, packets: Sequence[Any], durations: dict[int, int]) -> None:
    for packet in packets:
        packet.duration = durations[packet.pts]
        out.mux(packet)


def _still(out: Any) -> Any:
    stream = out.add_stream("mjpeg", rate=1)
    stream.width = stream.height = 32
    stream.pix_fmt = "yuvj420p"
    return stream


def _sound(out: Any, path: Path, language: str) -> Any:
    stream = out.add_stream("libopus" if path.suffix in (".mkv", ".webm") else "aac", rate=48_000)
    stream.metadata["language"], stream.metadata["title"] = language, f"Ton {language}"
    return stream


def _samples(stream: Any, number: int) -> list[Any]:
    packets = []
    size = 960 if stream.codec_context.name == "libopus" else 1024
    for start in range(0, 20_000, size):
        frame = av.AudioFrame(format="fltp" if size == 1024 else "flt", layout="stereo", samples=size)
        values = np.sin(np.arange(start, start + size) / (9.0 + number)).astype(np.float32)
        for plane in frame.planes:
            plane.update(values.repeat(plane.buffer_size // values.nbytes).tobytes())
        frame.sample_rate, frame.pts, frame.time_base = 48_000, start, Fraction(1, 48_000)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _text(out: Any, codec: str) -> Any:
    stream = out.add_mux_stream(codec)
    stream.time_base = Fraction(1, 1000)
    stream.metadata["language"] = "ger"
    stream.disposition = av.stream.Disposition.forced
    return stream


def _lines(out: Any, stream: Any, codec: str | None) -> None:
    for start, words in ((20, b"Guten Tag"), (200, b"Adieu")):
        content = len(words).to_bytes(2, "big") + words if codec == "mov_text" else words
        packet = av.Packet(content)
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = start
        packet.duration = 100
        out.mux(packet)


def _chapter(number: int, start: int, end: int, title: str) -> dict[str, Any]:
    return {
        "id": number,
        "start": start,
        "end": end,
        "time_base": Fraction(1, 1000),
        "metadata": {"title": title},
    }


def frames_of(path: Path) -> list[VideoFrame]:
    """All frames that are shown."""
    with av.open(str(path)) as container:
        return list(container.decode(container.streams.video[0]))


def planes(path: Path) -> list[list[np.ndarray]]:
    """The code values of all frames."""
    found = []
    for frame in frames_of(path):
        layout = planar(frame.format.name)
        rows = []
        for plane in frame.planes:
            values = np.frombuffer(plane, np.uint8 if layout.bits == 8 else np.uint16)
            rows.append(values.reshape(-1, plane.line_size // values.itemsize)[: plane.height, : plane.width])
        found.append([np.array(values) for values in rows])
    return found


def held(path: Path) -> dict[str, Any]:
    """What the ten checks look at, under their numbers."""
    frames = frames_of(path)
    first = frames[0]
    with av.open(str(path)) as container:
        video, *_ = (s for s in container.streams.video if not s.disposition & 0x400)
        streams, packets = [], []
        for stream in container.streams:
            name = stream.codec_context.name if stream.codec_context is not None else ""
            names = {key: stream.metadata.get(key) for key in ("language", "title", "filename", "mimetype")}
            if stream is not video:
                streams.append((stream.type, name, names, int(stream.disposition)))
        others = [s for s in container.streams if s.type in ("audio", "subtitle")]
        for packet in container.demux(others) if others else ():
            if packet.size:
                time = round(float(packet.pts * packet.time_base), 3)
                packets.append((packet.stream_index, time, packet.size, bytes(packet)))
        chapters = [
            (float(c["start"] * c["time_base"]), float(c["end"] * c["time_base"]), c["metadata"]["title"])
            for c in container.chapters()
        ]
        kinds = "DISPLAYMATRIX", "MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"
        found = {name: first.side_data.get(Type[name]) for name in kinds}
        side = {name: bytes(data) for name, data in found.items() if data is not None}
        return {
            "1 frames": len(frames),
            "2 times": [float(frame.pts * frame.time_base) for frame in frames],
            "2 end": float((frames[-1].pts + (frames[-1].duration or math.nan)) * first.time_base),
            "3 colours": [
                int(getattr(first, name)) for name in ("color_range", "colorspace", "color_primaries", "color_trc")
            ],
            "4 format": first.format.name.replace("yuvj", "yuv"),
            "5 matrix": side.get("DISPLAYMATRIX"),
            "6 pixel": video.sample_aspect_ratio,
            "6 fields": video.codec_context.field_order,
            "6 interlaced": [frame.interlaced_frame for frame in frames],
            "7 light": (side.get("MASTERING_DISPLAY_METADATA"), side.get("CONTENT_LIGHT_LEVEL")),
            "8 streams": streams,
            "8 video": (video.metadata.get("language"), int(video.disposition)),
            "9 packets": sorted(packets),
            "10 chapters": chapters,
            "10 title": container.metadata.get("title"),
        }  # fmt: skip


def restore(source: Path, target: Path, restorer: Restorer, **options: Any) -> FilmReport:
    return restore_film(FilmRequest(source, target, **options), restorer, quiet=True)
