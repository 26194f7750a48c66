"""GeoTIFF's tags: where a picture lies on the ground."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["NODATA", "TAGS", "GeoTag", "enlarged"]

_PIXEL_SCALE, _TIEPOINTS, _TRANSFORM, _KEYS, _METADATA, NODATA = 33550, 33922, 34264, 34735, 42112, 42113
TAGS = (_PIXEL_SCALE, _TIEPOINTS, _TRANSFORM, _KEYS, 34736, 34737, _METADATA, NODATA)
_RASTER_TYPE, _POINT = 1025, 2  # the key that says whether positions are those of pixels' corners or centres


@dataclass(frozen=True)
class GeoTag:
    """A tag's type as in TIFF, its number of values, and these."""

    kind: int
    count: int
    value: Any


def enlarged(tags: Mapping[int, GeoTag], scale: int) -> dict[int, GeoTag]:
    """The tags of a picture with ``scale`` times as many pixels across and down, on the same ground."""
    found = dict(tags)
    if scale == 1 or not found:
        return found
    found.pop(_METADATA, None)  # statistics and scales of the bands before
    half = 0.5 if _points(found.get(_KEYS)) else 0.0
    if (tag := found.get(_PIXEL_SCALE)) is not None:
        across, down, *rest = _doubles(tag)
        found[_PIXEL_SCALE] = replace(tag, value=(across / scale, down / scale, *rest))
    if (tag := found.get(_TIEPOINTS)) is not None:
        values = list(_doubles(tag))
        for place in range(0, len(values), 6):  # column, row, plane, and where that is
            for axis in (place, place + 1):
                values[axis] = (values[axis] + half) * scale - half
        found[_TIEPOINTS] = replace(tag, value=tuple(values))
    if (tag := found.get(_TRANSFORM)) is not None:
        values = list(_doubles(tag))
        shift = (half - half * scale) / scale  # of a column or row before, by the new one
        for row in range(0, 12, 4):
            values[row + 3] += shift * (values[row] + values[row + 1])
            values[row] /= scale
            values[row + 1] /= scale
        found[_TRANSFORM] = replace(tag, value=tuple(values))
    return found


def _doubles(tag: GeoTag) -> tuple[float, ...]:
    value = tag.value
    if isinstance(value, bytes):
        return struct.unpack(f"<{len(value) // 8}d", value)
    return tuple(float(number) for number in value)


def _points(keys: GeoTag | None) -> bool:
    """Whether positions are those of pixels' centres."""
    if keys is None:
        return False
    values = [int(number) for number in keys.value]
    return any(
        values[place] == _RASTER_TYPE and values[place + 3] == _POINT
        for place in range(4, len(values) - 3, 4)
    )
