"""WebP."""

from __future__ import annotations

from typing import IO

from .. import exif
from ..inks import in_colour
from ..picture import Picture
from ..record import Format
from ..through_pillow import header_reader, reader, save


def _write(file: IO[bytes], picture: Picture, quality: int) -> None:
    if picture.profile is not None and picture.pixels.shape[2] < 3:
        picture = in_colour(picture)
    save(
        file,
        "WEBP",
        picture,
        quality=quality,
        lossless=quality == 100,
        exact=True,
        exif=exif.with_dpi(picture.exif, picture.dpi),
        xmp=picture.xmp,
    )


FORMAT = Format(
    name="WebP",
    suffixes=(".webp",),
    starts=lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP",
    header=header_reader("WEBP"),
    read=reader("WEBP"),
    write=_write,
    longest=16_383,
)
