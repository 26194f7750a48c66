"""The reader of picture files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vimzoo.errors import first_line

from .formats import FORMATS
from .picture import MAX_PIXELS, Picture, PictureError
from .record import Format, Header, Request

PAGES = ("refuse", "first", "all")
"""What to do with several pages or frames."""
__all__ = ["PAGES", "format_of_file", "open_file", "picture_header", "read_picture", "requested"]


def read_picture(
    source: Path | str | IO[bytes], *, max_pixels: float = MAX_PIXELS, pages: str = "refuse"
) -> Picture:
    """Read a picture of any format that `vimzoo.pictures.formats` knows; the suffix of its name does not matter.

    Palettes become RGB, bilevel pictures grey, CMYK becomes sRGB by its profile, and integers of 9 to 15 bits 16 bits.
    Of a JPEG file with several pictures (MPO: with a depth map, or of two views) the first is read.

    Args:
        source: A file's name, or an open file.
        max_pixels: Refuse larger pictures.
        pages: What to do with several pages or frames: ``"refuse"``, or read the ``"first"`` or ``"all"``.

    Raises:
        OSError: the file cannot be opened.
        PictureError: it is damaged, has another format, unsupported or too many pixels, or holds several pictures.
        ValueError: ``pages`` is unknown.
    """
    if pages not in PAGES:
        raise ValueError(f"pages: expected one of {', '.join(PAGES)}, got {pages!r}")
    with open_file(source) as file:
        return requested(file, Request(max_pixels, pages))


def requested(file: IO[bytes], request: Request) -> Picture:
    """Read an open file.

    Raises:
        OSError, PictureError: as `read_picture`.
    """
    with _told():
        return format_of_file(file).read(file, request)


def picture_header(source: Path | str | IO[bytes]) -> Header:
    """Width and height as stored, and orientation, without decoding pixels where that is possible.

    Raises:
        OSError: the file cannot be opened.
        PictureError: there is no valid header.
    """
    with open_file(source) as file, _told():
        return format_of_file(file).header(file)


def format_of_file(file: IO[bytes]) -> Format:
    """The format of an open file, by its first bytes.

    Raises:
        PictureError: it is empty, or none that is known.
    """
    file.seek(0)
    head = file.read(32)
    if not head:
        raise PictureError("the file is empty")
    found = [form for form in FORMATS.values() if form.starts(head)]
    if not found:
        raise PictureError(f"cannot identify image file: expected {', '.join(FORMATS)}")
    return found[0] if found[0].name != "TGA" else found[-1]


@contextlib.contextmanager
def open_file(source: Path | str | IO[bytes]) -> Iterator[IO[bytes]]:
    """A file that is open already, or is open until the block ends."""
    if isinstance(source, Path | str):
        with open(source, "rb") as file:
            yield file
    else:
        yield source


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Every error of a decoder as a `PictureError`."""
    try:
        yield
    except (PictureError, MemoryError):
        raise
    except Exception as error:  # on damaged files the decoders raise nearly anything
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise PictureError(f"damaged: {first_line(error)}") from error
