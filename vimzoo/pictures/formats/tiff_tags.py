"""TIFF's metadata, in and out."""

from __future__ import annotations

import struct
from typing import IO, Any

from .. import geo, xmp
from ..exif import PLACES, Block, described
from ..picture import Picture, sound_dpi

DESCRIPTION = 270
_XMP, _IPTC, _PROFILE, _UNIT = 700, 33723, 34675, 296
_RESOLUTIONS = (282, 283)
_PER_INCH = {2: 1.0, 3: 2.54}  # by ResolutionUnit
_DIALECTS = {
    "ome", "imagej", "shaped", "micromanager", "scanimage", "metaseries", "fluoview", "svs", "scn", "qpi", "bif",
    "philips", "ndpi", "lsm", "stk", "nih", "mdgel",
}  # fmt: skip
"""Kinds of TIFF, as tifffile calls them, whose description states sizes and the order of pages."""
_MASK = 4  # of NewSubfileType
_BYTE, _LONG, _LONG8 = 1, 4, 16
_ANNOUNCED = 1
"""How far the tags that announce a directory are below its own, which tifffile does not write."""


def metadata(tiff: Any, page: Any) -> dict[str, Any]:
    """The metadata of an open file, as arguments of `Picture`."""
    lost: tuple[str, ...] = ()
    handle = tiff.filehandle

    def read(place: int, size: int) -> bytes:
        handle.seek(place)
        return bytes(handle.read(size))

    block = Block.read(read)
    if dialects := sorted(_DIALECTS & {name.lower() for name in tiff.flags}):
        block.places["image"].pop(DESCRIPTION, None)
        lost = (f"the description ({', '.join(dialects)}) with its sizes and order of pages is left out",)
    if any(series.keyframe.subfiletype & _MASK for series in tiff.series):
        lost += ("the mask is left out",)
    for tag in geo.TAGS:
        block.places["image"].pop(tag, None)
    tags = {tag.code: tag for tag in page.tags}
    packet, record, profile = (_bytes(tags.get(code)) for code in (_XMP, _IPTC, _PROFILE))
    return {
        "profile": profile,
        "exif": described(block),
        "dpi": _dpi({code: tag.value for code, tag in tags.items()}),
        "xmp": xmp.described(packet),
        "iptc": record,
        "geo": {
            code: geo.GeoTag(int(tags[code].dtype), tags[code].count, tags[code].value)
            for code in geo.TAGS
            if code in tags
        },
        "lost": lost,
    }


def _bytes(tag: Any) -> bytes | None:
    if tag is None:
        return None
    value = tag.value
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    return (
        struct.pack(f"<{len(value)}I", *value) if isinstance(value, tuple) else None
    )  # IPTC as 32-bit numbers


def _dpi(tags: dict[int, Any]) -> tuple[float, float] | None:
    unit = _PER_INCH.get(int(tags.get(_UNIT, 2)))
    values = [
        value for code in _RESOLUTIONS if isinstance(value := tags.get(code), tuple) and len(value) == 2
    ]
    if unit is None or len(values) < 2 or not all(below for _, below in values):
        return None
    return sound_dpi([unit * above / below for above, below in values])


def extra_tags(picture: Picture) -> list[tuple[Any, ...]]:
    """A picture's metadata as tifffile's ``extratags``; directories below the first are only announced."""
    block = Block.of(picture.exif).ordered("<")
    tags: list[tuple[Any, ...]] = [
        (code, entry.kind, entry.count, entry.data, True) for code, entry in block.places["image"].items()
    ]
    tags += [(PLACES[name] - _ANNOUNCED, _LONG, 1, 0, True) for name in ("exif", "gps") if block.used(name)]
    if picture.xmp is not None:
        tags.append((_XMP, _BYTE, len(picture.xmp), picture.xmp, True))
    if picture.iptc is not None:
        tags.append((_IPTC, 7, len(picture.iptc), picture.iptc, True))
    tags += [(code, tag.kind, tag.count, tag.value, True) for code, tag in picture.geo.items()]
    return sorted(tags)


def append_directories(file: IO[bytes], data: bytes | None, big: bool) -> None:
    """Append the directories of an EXIF block to a little-endian TIFF file that announces them.

    Args:
        file: Open for reading and writing.
        data: The block.
        big: The file is a BigTIFF.
    """
    block = Block.of(data).ordered("<")
    offset, number, row = ("<Q", "<Q", "<HHQQ") if big else ("<I", "<H", "<HHII")

    def unpacked(form: str) -> int:
        return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])

    file.seek(8 if big else 4)
    file.seek(unpacked(offset))
    count, rows = unpacked(number), struct.calcsize(row)
    start = file.tell()
    codes = [int.from_bytes(file.read(rows)[:2], "little") for _ in range(count)]
    for name in ("exif", "gps"):
        if PLACES[name] - _ANNOUNCED not in codes:
            continue
        end = file.seek(0, 2)
        end += end % 2
        file.seek(end)
        file.write(block.directories(end, name, big))
        file.seek(start + rows * codes.index(PLACES[name] - _ANNOUNCED))
        file.write(struct.pack(row, PLACES[name], _LONG8 if big else _LONG, 1, end))
