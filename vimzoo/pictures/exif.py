"""EXIF blocks, entry by entry as stored: keeps those that describe the picture, and drops those about storage.

Pillow's own class would lose text that is not ASCII and the Interop entries.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import ExifTags, Image

__all__ = [
    "Block", "Entry", "described", "dpi", "header_orientation", "orientation", "resized", "shortened", "with_dpi",
    "with_orientation",
]  # fmt: skip

PREFIX = b"Exif\0\0"
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 129: 1}
"""Bytes per value by type of entry."""
_UNITS = SIZES | {5: 4, 10: 4}
"""Bytes that change places with the byte order; a rational number is two of 4."""
ORIENTATION, _EXIF, _GPS, _INTEROP = 274, 34665, 34853, 40965
PLACES = {"image": 0, "exif": _EXIF, "gps": _GPS, "interop": _INTEROP}
"""The directories of a block, and the entry that points to each."""
_PARENTS = {"exif": "image", "gps": "image", "interop": "exif"}
_LAYOUT_TAGS = {
    *range(254, 267), 273, 277, 278, 279, 280, 281, 284, 301, 317, 320, *range(322, 326), 330, 338, 339, 340, 341, 347,
    *range(512, 532), 700, 33723, 34377, 34675, 282, 283, 296,
}  # fmt: skip
"""Tags of EXIF and TIFF about the storage of pixels, or that repeat other data."""
_WIDTH, _HEIGHT = int(ExifTags.Base.ExifImageWidth), int(ExifTags.Base.ExifImageHeight)
_RESOLUTIONS, _UNIT, _INCH = (282, 283), 296, 2
_SHORT, _LONG, _LONG8 = 3, 4, 16
_WIDE = {16: 4, 17: 9, 18: 13}
"""Numbers of 8 bytes, which BigTIFF alone has, and the same of 4."""
_MOST = 4096  # entries of a directory in a block that is not damaged


@dataclass(frozen=True)
class _Form:
    """How directories are stored: forms of `struct` for their number of entries, an entry and an offset."""

    count: str
    row: str
    offset: str

    @property
    def inline(self) -> int:
        """Bytes of values that stand in the entry itself."""
        return struct.calcsize(self.offset)


_CLASSIC, _BIG = _Form("H", "HHI", "I"), _Form("Q", "HHQ", "Q")
_STARTS = {b"II*\0": ("<", _CLASSIC), b"MM\0*": (">", _CLASSIC), b"II+\0": ("<", _BIG), b"MM\0+": (">", _BIG)}
"""The order of bytes and the form of directories by how a block or a TIFF file begins."""


@dataclass
class Entry:
    """Type and values of an entry, as stored."""

    kind: int
    data: bytes

    @property
    def count(self) -> int:
        """Number of values."""
        return len(self.data) // SIZES[self.kind]


@dataclass
class Block:
    """All entries, by directory and tag; ``order`` is that of bytes in numbers, ``<`` or ``>``."""

    order: str = "<"
    places: dict[str, dict[int, Entry]] = field(default_factory=lambda: {name: {} for name in PLACES})

    @classmethod
    def read(cls, read: Callable[[int, int], bytes]) -> Block:
        """Read a block, or a TIFF file's first directory; damaged entries are left out.

        Args:
            read: Offset and length -> bytes, fewer at the end.
        """
        head = read(0, 16)
        order, form = _STARTS.get(head[:4], ("", _CLASSIC))
        first = 8 if form is _BIG else 4
        if not order or len(head) < first + form.inline:
            return cls()
        block = cls(order)
        pointers = {"image": struct.unpack(order + form.offset, head[first : first + form.inline])[0]}
        for name in PLACES:
            if name in pointers:
                block.places[name] = block._directory(read, pointers[name], form)
            for below, parent in _PARENTS.items():
                entry = block.places[parent].pop(PLACES[below], None)
                if entry is not None and entry.kind in (_LONG, 13) and entry.count == 1:
                    pointers[below] = struct.unpack(block.order + "I", entry.data)[0]
        return block

    def _directory(self, read: Callable[[int, int], bytes], place: int, form: _Form) -> dict[int, Entry]:
        size = struct.calcsize(self.order + form.count)
        head = read(place, size)
        count = struct.unpack(self.order + form.count, head)[0] if len(head) == size else 0
        start = struct.calcsize(self.order + form.row)
        row = start + form.inline
        rows = read(place + size, row * min(count, _MOST))
        entries: dict[int, Entry] = {}
        for first in range(0, len(rows) - row + 1, row):
            tag, kind, number = struct.unpack(self.order + form.row, rows[first : first + start])
            values = rows[first + start : first + row]
            size = (8 if kind in _WIDE else SIZES.get(kind, 0)) * number
            if size > form.inline:
                values = read(struct.unpack(self.order + form.offset, values)[0], size)
            if 0 < size <= len(values):
                entry = self._narrow(kind, values[:size])
                if entry is not None:
                    entries[tag] = entry
        return entries

    def _narrow(self, kind: int, data: bytes) -> Entry | None:
        """An entry with numbers of 4 bytes for those of 8; None if they are too large."""
        if kind not in _WIDE:
            return Entry(kind, data)
        sign = "q" if kind == 17 else "Q"
        values = struct.unpack(f"{self.order}{len(data) // 8}{sign}", data)
        with contextlib.suppress(struct.error):
            narrow = "i" if kind == 17 else "I"
            return Entry(_WIDE[kind], struct.pack(f"{self.order}{len(values)}{narrow}", *values))
        return None

    @classmethod
    def of(cls, data: bytes | None) -> Block:
        """The entries of an EXIF block as bytes; none without one."""
        plain = (data or b"").removeprefix(PREFIX)
        return cls.read(lambda place, size: plain[place : place + size])

    def ordered(self, order: str) -> Block:
        """The same entries with another order of bytes."""
        if order == self.order:
            return self
        places = {
            name: {tag: Entry(e.kind, _swapped(e.data, _UNITS[e.kind])) for tag, e in entries.items()}
            for name, entries in self.places.items()
        }
        return Block(order, places)

    def __bool__(self) -> bool:
        return any(self.places.values())

    def tobytes(self) -> bytes | None:
        """The block as JPEG and others store it; None if it is empty."""
        if not self:
            return None
        return (
            PREFIX
            + (b"II*\0" if self.order == "<" else b"MM\0*")
            + self._number(8)
            + self.directories(8, "image")
        )

    def directories(self, start: int, name: str, big: bool = False) -> bytes:
        """A directory and those below it, with offsets for a place ``start`` bytes after the header's begin.

        Args:
            big: As BigTIFF stores them.
        """
        form = _BIG if big else _CLASSIC
        entries = dict(self.places[name])
        below = [other for other, parent in _PARENTS.items() if parent == name and self.used(other)]
        head, row = struct.pack(self.order + form.count, len(entries) + len(below)), self.order + form.row
        length = len(head) + (struct.calcsize(row) + form.inline) * (len(entries) + len(below)) + form.inline
        rest = b""
        for other in below:
            place = start + length + len(rest)
            entries[PLACES[other]] = Entry(_LONG8 if big else _LONG, self._offset(place, form))
            rest += self.directories(place, other, big)
            rest += b"\0" * (len(rest) % 2)
        for tag, entry in sorted(entries.items()):
            count = 1 if entry.kind == _LONG8 else entry.count
            head += struct.pack(row, tag, entry.kind, count)
            if len(entry.data) <= form.inline:
                head += entry.data.ljust(form.inline, b"\0")
            else:
                head += self._offset(start + length + len(rest), form)
                rest += entry.data + b"\0" * (len(entry.data) % 2)
        return head + bytes(form.inline) + rest

    def used(self, name: str) -> bool:
        """Whether a directory has entries, or one below it."""
        return bool(self.places[name]) or any(self.used(b) for b, p in _PARENTS.items() if p == name)

    def _number(self, value: int) -> bytes:
        return self._offset(value, _CLASSIC)

    def _offset(self, value: int, form: _Form) -> bytes:
        return struct.pack(self.order + form.offset, value)

    def whole(self, place: str, tag: int) -> int | None:
        """The value of an entry that is one whole number."""
        entry = self.places[place].get(tag)
        form = {_SHORT: "H", _LONG: "I", 1: "B"}.get(entry.kind) if entry is not None else None
        if entry is None or form is None or entry.count != 1:
            return None
        return int(struct.unpack(self.order + form, entry.data)[0])

    def set_whole(self, place: str, tag: int, value: int) -> None:
        """Set an entry to one whole number."""
        kind, form = (_SHORT, "H") if value < 65536 else (_LONG, "I")
        self.places[place][tag] = Entry(kind, struct.pack(self.order + form, value))


def _swapped(data: bytes, unit: int) -> bytes:
    return b"".join(data[i : i + unit][::-1] for i in range(0, len(data), unit)) if unit > 1 else data


def described(block: Block) -> bytes | None:
    """A block without thumbnail, resolution and entries about storage; None if nothing is left."""
    image = {tag: entry for tag, entry in block.places["image"].items() if tag not in _LAYOUT_TAGS}
    return Block(block.order, block.places | {"image": image}).tobytes()


def orientation(data: bytes | None) -> int:
    """EXIF's orientation, 1 to 8; 1 where it is missing or damaged."""
    value = Block.of(data).whole("image", ORIENTATION) if data else None
    return value if value is not None and 1 <= value <= 8 else 1


def header_orientation(read: Callable[[], Image.Exif]) -> int:
    """The orientation among the entries that one of Pillow's methods gives; 1 if they are damaged."""
    try:
        value = read().get(ORIENTATION, 1)
    except Exception:  # a damaged block can raise anything
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def with_orientation(data: bytes | None, value: int) -> bytes | None:
    """A block that states this orientation, unless it does already."""
    if orientation(data) == value:
        return data
    block = Block.of(data)
    block.set_whole("image", ORIENTATION, value)
    return block.tobytes()


def dpi(block: Block) -> tuple[float, float] | None:
    """The resolution that a block states, in pixels per inch."""
    values = []
    for tag in _RESOLUTIONS:
        entry = block.places["image"].get(tag)
        if entry is None or entry.kind != 5 or entry.count != 1:
            return None
        above, below = struct.unpack(block.order + "II", entry.data)
        values.append(above / below if below else 0.0)
    per_inch = {_INCH: 1.0, 3: 2.54}.get(block.whole("image", _UNIT) or _INCH)
    return None if per_inch is None else (per_inch * values[0], per_inch * values[1])


def with_dpi(data: bytes | None, dpi: tuple[float, float] | None) -> bytes | None:
    """The block with a resolution, for formats that have no other place for it."""
    if dpi is None:
        return data
    block = Block.of(data)
    for tag, value in zip(_RESOLUTIONS, dpi, strict=True):
        block.places["image"][tag] = Entry(5, struct.pack(block.order + "II", round(value * 100), 100))
    block.set_whole("image", _UNIT, _INCH)
    return block.tobytes()


def resized(data: bytes | None, width: int, height: int) -> bytes | None:
    """The block with its size entries, if any, set to this size."""
    block = Block.of(data)
    sizes = {tag: size for tag, size in ((_WIDTH, width), (_HEIGHT, height)) if tag in block.places["exif"]}
    for tag, size in sizes.items():
        block.set_whole("exif", tag, size)
    return block.tobytes() if sizes else data


def shortened(data: bytes | None, most: int) -> bytes | None:
    """A block of at most this many bytes, without the longest entries, such as maker notes."""
    while data is not None and len(data) > most:
        block = Block.of(data)
        lengths = [
            (len(e.data), name, tag) for name, place in block.places.items() for tag, e in place.items()
        ]
        if not lengths:
            return None
        _, name, tag = max(lengths)
        del block.places[name][tag]
        data = block.tobytes()
    return data
