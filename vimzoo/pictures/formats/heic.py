"""HEIC, read only, through pillow-heif."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from .. import exif, xmp
from ..picture import Picture, PictureError, check_size, needs, sound_dpi
from ..record import Format, Header, Request


def _opened(file: IO[bytes]) -> Any:
    try:
        import pillow_heif
    except ImportError as error:
        raise needs("pillow-heif to read HEIC", "heic") from error
    file.seek(0)
    return pillow_heif.open_heif(file, convert_hdr_to_8bit=False)


def _read(file: IO[bytes], request: Request) -> Picture:
    found = _opened(file)
    width, height = found.size
    check_size(width, height, request.max_pixels)
    if request.pages != "first" and len(found) > 1:
        raise PictureError(f"holds {len(found)} pictures; expected one, or --pages first")
    info = found.info
    block = exif.Block.of(info.get("exif"))
    nclx = info.get("nclx_profile")
    codes = None
    if nclx is not None:
        codes = (
            int(nclx["color_primaries"]),
            int(nclx["transfer_characteristics"]),
            int(nclx["matrix_coefficients"]),
            1,
        )
    return Picture(
        np.atleast_3d(np.asarray(found[found.primary_index])),
        info.get("icc_profile"),
        exif.with_orientation(exif.described(block), 1),  # the decoder turns it
        sound_dpi(exif.dpi(block)),
        xmp=xmp.described(info.get("xmp")),
        cicp=codes if codes is not None and codes[:2] not in ((1, 13), (2, 2)) else None,
        bits=info.get("bit_depth"),
        lost=_lost(info),
    )


def _lost(info: Mapping[str, Any]) -> tuple[str, ...]:
    said = []
    if any("gainmap" in str(name).lower() for name in info.get("aux") or ()):
        said.append("the gain map is left out")
    if info.get("depth_images"):
        said.append("the depth map is left out")
    return tuple(said)


def _header(file: IO[bytes]) -> Header:
    width, height = _opened(file).size
    return width, height, 1


FORMAT = Format(
    name="HEIC",
    suffixes=(".heic", ".heif"),
    starts=lambda head: head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"),
    header=_header,
    read=_read,
    package="pillow_heif",
)
