"""Chosen frames of a film as RGB arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from vimzoo.errors import UsageError

from .reading import Film

__all__ = ["read_frames"]


def read_frames(path: Path, choose: Callable[[int], np.ndarray]) -> np.ndarray:
    """The frames that ``choose`` picks, (T, H, W, 3) of uint8, red first.

    A film that is shorter than it states ends with repetitions of its last frame. The film is decoded up to the last
    frame that is picked.

    Args:
        path: The file.
        choose: Number of frames -> the numbers (T,) of those wanted, in any order.

    Raises:
        UsageError: the file cannot be opened as a film, or holds no frame.
    """
    with Film(path) as film:
        count = film.video.frames
        if not count:
            count = sum(1 for packet in film.container.demux(film.video) if packet.size)
            film.rewind()
        places = choose(max(count, 1))
        wanted, found, latest = set(places.tolist()), {}, None
        for shown in film.frames():
            latest = shown.frame
            if shown.number in wanted:
                found[shown.number] = shown.frame.to_ndarray(format="rgb24")
            if shown.number >= max(wanted):
                break
        if latest is None:
            raise UsageError(f"{path}: expected a film, found no frame that FFmpeg can decode")
        if wanted - found.keys():
            last = latest.to_ndarray(format="rgb24")
            found |= dict.fromkeys(wanted - found.keys(), last)
        return np.stack([found[place] for place in places.tolist()])
