"""Decides how a film is restored and written, and finds out before the work whether that is possible."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from vimzoo.errors import UsageError, first_line
from vimzoo.film.colours import colours_of
from vimzoo.film.encoders import Encoder, Needs, check_crf, chosen
from vimzoo.film.layout import Layout
from vimzoo.film.light import Light, display_matrix, light_of
from vimzoo.film.logs import errors_told
from vimzoo.film.planes import planar
from vimzoo.film.reading import Film, Shown
from vimzoo.film.writing import Part, Setup

from .frames import Frames
from .restorer import Restorer

__all__ = ["planned", "tried"]

TAGS = ("color_range", "colorspace", "color_primaries", "color_trc")
BOTTOM_FIRST = (3, 4)
"""FFmpeg's codes of field orders in which the bottom field is shown first."""
_logger = logging.getLogger(__name__)


def planned(
    film: Film,
    start: Shown,
    restorer: Restorer,
    suffix: str,
    *,
    encoder: str | None = None,
    crf: int | None = None,
    preview: bool = False,
    quiet: bool = False,
) -> tuple[Frames, Setup]:
    """How frames are restored, and what the result is like.

    Args:
        film: The original.
        start: Its first frame.
        restorer: Restores the frames.
        suffix: Of the result.
        encoder, crf, preview: As in `FilmRequest`.
        quiet: Do not warn of what the result does not keep.

    Raises:
        UsageError: no encoder, or not this one, can write the result.
    """
    frame, context = start.frame, film.video.codec_context
    layout, light = planar(frame.format.name), light_of(frame)
    tags = {name: int(getattr(frame, name)) for name in TAGS}
    if frame.format.name.startswith("yuvj"):
        tags["color_range"] = 2
    width, height = frame.width * restorer.scale, frame.height * restorer.scale
    top_first = None
    if frame.interlaced_frame or context.field_order > 1:
        top_first = context.field_order not in BOTTOM_FIRST
    needs = Needs(layout, width * (1 + preview), height, top_first is not None, light)
    writer, result = chosen(suffix, needs, encoder)
    check_crf(writer, crf)
    if not quiet:
        _warn(film.path, needs, writer, result)
    colours = colours_of(layout, frame.width, frame.height, tags["colorspace"], tags["color_range"])
    if layout.kind == "rgb" and result.kind == "yuv":
        tags |= {"colorspace": 1, "color_range": 1}
    made = planar(result.name)
    after = colours_of(made, width, height, tags["colorspace"], tags["color_range"])
    setup = Setup(
        writer,
        writer.settings(crf, light, top_first, result.alpha),
        result.name,
        width * (1 + preview),
        height,
        film.rate,
        film.time_base,
        tags,
        film.video.sample_aspect_ratio,
        context.field_order,
        display_matrix(frame),
    )
    return Frames(restorer, layout, colours, made, after, preview), setup


def _warn(path: Path, needs: Needs, encoder: Encoder, kept: Layout) -> None:
    """Say what the result does not keep."""
    have, lost = needs.layout, []
    if kept.bits < have.bits:
        lost.append(f"{have.bits - kept.bits} of {have.bits} bits")
    if kept.kind == "yuv" and have.kind != "grey" and (kept.across > have.across or kept.down > have.down):
        lost.append("all of the colours' sharpness")
    if needs.light != Light() and encoder.tags is None:
        lost.append("HDR10's tags")
    if needs.interlaced and not encoder.fields:
        lost.append("the order of the fields")
    if lost:
        _logger.warning("%s: %s does not keep %s", path, encoder.name, ", ".join(lost))


def tried(setup: Setup, frames: Frames, suffix: str, scratch: Path) -> None:
    """Encode a black frame.

    Args:
        setup, frames: From `planned`.
        suffix: Of the result.
        scratch: A file that is written for this.

    Raises:
        UsageError: the encoder does not take these settings.
    """
    black = [torch.zeros(size) for size in frames.result.sizes(setup.height, setup.width)]
    told: list[str] = []
    try:
        with errors_told() as told:
            part = Part(scratch, suffix, setup)
            part.write(setup.frame(black, 0), 1)
            part.close()
    except (OSError, ValueError, RuntimeError) as error:  # av.FFmpegError is one of these
        reason = told[0] if told else first_line(error)
        raise UsageError(f"{setup.encoder.name}: cannot write the result ({reason})") from error
