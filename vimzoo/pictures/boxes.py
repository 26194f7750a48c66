"""Boxes of ISO base media files, of which AVIF and JPEG XL consist."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

__all__ = ["box", "boxes", "find", "with_metadata"]

_META = b"meta"
_FULL = {_META: 4, b"iinf": 6, b"iref": 4, b"iprp": 0, b"ipco": 0}
"""Bytes before the boxes inside a box."""
_TURNS = {3: 2, 5: 1, 6: 3, 7: 3, 8: 1}
"""Quarters to the left by EXIF's orientation."""
_MIRRORS = {2: 1, 4: 0, 5: 0, 7: 0}
"""What is exchanged after turning: 0 top and bottom, 1 left and right."""
_ESSENTIAL = 128  # a reader that does not know the property must not show the picture


def box(kind: bytes, body: bytes) -> bytes:
    """A box."""
    return struct.pack(">I", 8 + len(body)) + kind + body


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kind and the content of every box; ends at damage."""
    place = 0
    while place + 8 <= len(data):
        size, start = int.from_bytes(data[place : place + 4], "big"), 8
        if size == 1:
            size, start = int.from_bytes(data[place + 8 : place + 16], "big"), 16
        elif size == 0:
            size = len(data) - place
        if size < start:
            return
        yield data[place + 4 : place + 8], data[place + start : place + size]
        place += size


def find(data: bytes, *path: bytes) -> list[bytes]:
    """The contents of all boxes at a path, such as ``meta``, ``iprp``, ``ipco``, ``colr``."""
    found = [data]
    for depth, kind in enumerate(path):
        skipped = _FULL.get(path[depth - 1], 0) if depth else 0
        found = [body for outer in found for name, body in boxes(outer[skipped:]) if name == kind]
    return found


def with_metadata(
    data: bytes, exif: bytes | None, xmp: bytes | None, properties: Sequence[bytes] = (), orientation: int = 1
) -> bytes:
    """An AVIF file of one item, as libavif writes it, with metadata and properties added.

    Args:
        data: The file: ``ftyp``, ``meta`` and ``mdat``.
        exif: A block that begins with TIFF's header.
        xmp: A packet.
        properties: Boxes that describe the main item, such as a colour profile's.
        orientation: EXIF's, which readers of AVIF take from properties alone.
    """
    parts = list(boxes(data))
    meta = dict(parts)[_META]
    inner = list(boxes(meta[4:]))
    primary = int.from_bytes(dict(inner)[b"pitm"][4:6], "big")
    items = _items(dict(inner)[b"iinf"])
    extra: list[tuple[int, bytes, bytes]] = []  # number, description of the item, content
    if exif is not None:
        extra.append((max(items) + 1, b"Exif\0", bytes(4) + exif))
    if xmp is not None:
        extra.append((max(items) + 1 + len(extra), b"mime\0application/rdf+xml\0", xmp))
    rest = b"".join(content for *_, content in extra)

    def rebuilt(growth: int) -> bytes:
        changed = []
        for kind, body in inner:
            if kind == b"iinf" and extra:
                body = _more_items(body, extra)
            elif kind == b"iloc":
                body = _more_places(body, extra, growth, len(data))
            elif kind == b"iprp":
                body = _with_properties(body, primary, properties, orientation)
            if kind != b"iref":
                changed.append(box(kind, body))
        references = dict(inner).get(b"iref", bytes(4))
        for number, *_ in extra:
            references += box(b"cdsc", struct.pack(">HHH", number, 1, primary))
        if len(references) > 4:
            changed.insert(-1, box(b"iref", references))
        return box(_META, meta[:4] + b"".join(changed))

    growth = len(rebuilt(0)) - (len(meta) + 8)
    whole = [rebuilt(growth) if kind == _META else box(kind, body) for kind, body in parts]
    return b"".join(whole) + (box(b"mdat", rest) if rest else b"")


def _items(iinf: bytes) -> list[int]:
    return [int.from_bytes(body[4:6], "big") for _, body in boxes(iinf[6:])]


def _more_items(iinf: bytes, extra: list[tuple[int, bytes, bytes]]) -> bytes:
    count = int.from_bytes(iinf[4:6], "big") + len(extra)
    heads = (b"\2\0\0\1" + struct.pack(">HH", number, 0) + about for number, about, _ in extra)
    described = [box(b"infe", head) for head in heads]
    return iinf[:4] + struct.pack(">H", count) + iinf[6:] + b"".join(described)


def _more_places(iloc: bytes, extra: list[tuple[int, bytes, bytes]], growth: int, end: int) -> bytes:
    """Version 0 with offsets and lengths of 4 bytes and no base offset, which libavif writes."""
    if iloc[0] != 0 or iloc[4:6] != b"\x44\0":
        raise ValueError("an AVIF file of another layout than expected")
    count = int.from_bytes(iloc[6:8], "big")
    result, place = struct.pack(">H", count + len(extra)), 8
    for _ in range(count):
        extents = int.from_bytes(iloc[place + 4 : place + 6], "big")
        result += iloc[place : place + 6]
        place += 6
        for _ in range(extents):
            offset, length = struct.unpack(">II", iloc[place : place + 8])
            result += struct.pack(">II", offset + growth, length)
            place += 8
    at = end + growth + 8  # after the header of the second mdat
    for number, _, content in extra:
        result += struct.pack(">HHHII", number, 0, 1, at, len(content))
        at += len(content)
    return iloc[:6] + result


def _with_properties(iprp: bytes, item: int, properties: Sequence[bytes], orientation: int) -> bytes:
    """The properties of all items, with those of one, and the orientation of all."""
    ipco, ipma = dict(boxes(iprp))[b"ipco"], dict(boxes(iprp))[b"ipma"]
    first = len(list(boxes(ipco))) + 1
    if ipma[0] != 0 or ipma[3] & 1 or first > 120:
        raise ValueError("an AVIF file of another layout than expected")
    turns = [box(b"irot", bytes((_TURNS[orientation],)))] if orientation in _TURNS else []
    turns += [box(b"imir", bytes((_MIRRORS[orientation],)))] if orientation in _MIRRORS else []
    shared = bytes(_ESSENTIAL | (first + place) for place in range(len(turns)))
    entries, place = ipma[:8], 8
    for _ in range(int.from_bytes(ipma[4:8], "big")):
        number, count = struct.unpack(">HB", ipma[place : place + 3])
        own = ipma[place + 3 : place + 3 + count]
        if number == item:
            own += bytes(first + len(turns) + place for place in range(len(properties)))
        own += shared
        entries += struct.pack(">HB", number, len(own)) + own
        place += 3 + count
    return box(b"ipco", ipco + b"".join((*turns, *properties))) + box(b"ipma", entries)
