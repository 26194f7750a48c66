"""Frames of PyAV as tensors, and back."""

from __future__ import annotations

import functools
from typing import Any

import av
import numpy as np
import torch
from av.video.format import VideoFormat
from torch import Tensor

from vimzoo.errors import UsageError

from .layout import Layout, closest, layout_of, usable

__all__ = ["encodable", "frame_of", "planar", "planes_of"]


@functools.cache
def layout_named(name: str) -> Layout:
    """The layout of a pixel format.

    Raises:
        ValueError: there is no such format.
    """
    return layout_of(VideoFormat(name, 64, 64))


@functools.cache
def _planar() -> tuple[Layout, ...]:
    endings = ("", *(f"{bits}le" for bits in (9, 10, 12, 14, 16)))
    names = [f"{kind}{size}p{end}" for kind in ("yuv", "yuva") for size in (420, 422, 444) for end in endings]
    names += [f"{kind}{end}" for kind in ("gray", "gbrp", "gbrap") for end in endings]
    found = []
    for name in names:
        try:
            found.append(layout_named(name))
        except ValueError:  # this FFmpeg lacks it
            continue
    return tuple(found)


def planar(name: str) -> Layout:
    """The layout in which frames of a pixel format are processed: their own, or the planar one that keeps all.

    Raises:
        UsageError: there is none.
    """
    own = layout_named(name.replace("yuvj", "yuv"))
    if own.order is not None and own.bits <= 16:
        return own
    other = closest(own, _planar())
    if other.bits < own.bits or own.bits < 8:
        raise UsageError(f"pixel format {name}: expected integers of 8 to 16 bits")
    return other


def encodable(codec: str) -> list[Layout]:
    """The layouts that an encoder takes, as far as frames of them can be made here."""
    formats = av.Codec(codec, "w").video_formats or []
    return [layout_named(form.name) for form in formats if usable(form.name)]


def planes_of(frame: av.VideoFrame, layout: Layout) -> list[Tensor]:
    """The code values of a frame.

    Args:
        frame: Of any pixel format.
        layout: From `planar`, for that format.

    Returns:
        Planes in the order of `Layout.order`, ``(rows, columns)`` float32.
    """
    if frame.format.name.replace("yuvj", "yuv") != layout.name:
        frame = frame.reformat(format=layout.name)
    assert layout.order is not None
    return [torch.from_numpy(_rows(frame, i, layout.bits).astype(np.float32)) for i in layout.order]


def _rows(frame: av.VideoFrame, index: int, bits: int) -> np.ndarray:
    plane: Any = frame.planes[index]
    values = np.frombuffer(plane, np.uint8 if bits == 8 else np.uint16)
    return values.reshape(-1, abs(plane.line_size) // values.itemsize)[: plane.height, : plane.width]


def frame_of(planes: list[Tensor], name: str) -> av.VideoFrame:
    """A frame of rounded code values.

    Args:
        planes: As from `planes_of`, for the planar layout of the format.
        name: The pixel format.
    """
    layout = planar(name)
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, layout.name)
    assert layout.order is not None
    for index, plane in zip(layout.order, planes, strict=True):
        target: Any = frame.planes[index]
        dtype = np.dtype(np.uint8 if layout.bits == 8 else np.uint16)
        rows = np.zeros((target.buffer_size // target.line_size, target.line_size // dtype.itemsize), dtype)
        rows[: plane.shape[0], : plane.shape[1]] = plane.cpu().numpy()
        target.update(rows)
    return frame if layout.name == name else frame.reformat(format=name)
