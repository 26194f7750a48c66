"""What is known of a file format."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO

from .picture import MAX_PIXELS, Picture

__all__ = ["Format", "Header", "Request"]

Header = tuple[int, int, int]
"""Width and height as stored, and EXIF's orientation."""


@dataclass(frozen=True)
class Request:
    """What is wanted of a file.

    Attributes:
        max_pixels: Refuse larger pictures.
        pages: What to do with several pages or frames: ``"refuse"``, or read the ``"first"`` or ``"all"``.
        whole: Every bit and all metadata; otherwise 8 bits and the orientation are enough.
    """

    max_pixels: float = MAX_PIXELS
    pages: str = "refuse"
    whole: bool = True


@dataclass(frozen=True)
class Format:
    """A file format. Functions get an open file at any position.

    Attributes:
        name: Its usual name.
        suffixes: Of file names, in lower case, the usual one first.
        starts: Whether a file of this format can begin with these 32 bytes.
        header: Width, height and orientation, without decoding pixels where that is possible.
        read: Reads a picture; may raise anything on damaged files.
        write: Writes a picture with a quality of 1 to 100; None if the format is not written.
        longest: Longest side in pixels that can be written.
        alpha, numbers: Whether it can hold transparency, and further bands and other types of numbers.
        bits: Most bits per channel of integers.
        pages: Whether it can hold several pages.
        keeps: Which of ``iptc``, ``texts`` and ``geo`` of a `Picture` it has room for; ``gamma``: gAMA and cHRM.
        refused: Says in words why a picture cannot be written whose size and channels fit.
        limits: Names what is too long for the format, and is left out or shortened.
        colours: Whether it can state colours by code points (cICP).
        package: The module without which no file of this format can be read, if there is one.
        instead: Suffix of results for pictures in a format that is not written.
    """

    name: str
    suffixes: tuple[str, ...]
    starts: Callable[[bytes], bool]
    header: Callable[[IO[bytes]], Header]
    read: Callable[[IO[bytes], Request], Picture]
    write: Callable[[IO[bytes], Picture, int], None] | None = None
    longest: int | None = None
    alpha: bool = True
    bits: int = 8
    numbers: bool = False
    pages: bool = False
    keeps: tuple[str, ...] = ()
    refused: Callable[[Picture], str | None] = lambda picture: None
    limits: Callable[[Picture], Iterable[str]] = lambda picture: ()
    colours: bool = False
    package: str | None = None
    instead: str = ".png"
