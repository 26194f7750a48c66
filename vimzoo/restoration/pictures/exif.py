"""EXIF blocks: keeps entries that describe the picture, and drops those about storage."""

import numpy as np
from PIL import ExifTags, Image

__all__ = ["described", "loaded", "resized", "shortened", "upright"]

_LAYOUT_TAGS = {
    *range(254, 267), 273, 277, 278, 279, 280, 281, 284, 301, 317, 320, *range(322, 326), 330, 338, 339, 340, 341, 347,
    *range(512, 532), 700, 33723, 34377, 34675,
}  # fmt: skip
"""Tags of EXIF and TIFF about the storage of pixels, or that repeat other data."""
_SIZES = (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)


def described(exif: Image.Exif) -> bytes | None:
    """A block without thumbnail and storage tags, or if damaged only the orientation; ``None`` if nothing is left."""
    kept = Image.Exif()
    try:
        for tag in exif:
            if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
                entries = dict(exif.get_ifd(tag))
                entries.pop(ExifTags.IFD.Interop, None)
                kept.get_ifd(tag).update(entries)
            elif tag not in _LAYOUT_TAGS:
                kept[tag] = exif[tag]
        block = kept.tobytes()
    except Exception:  # a damaged block can raise anything
        kept = Image.Exif()
        orientation = exif.get(ExifTags.Base.Orientation)
        if isinstance(orientation, int):
            kept[ExifTags.Base.Orientation] = orientation
        block = kept.tobytes()
    return block if len(kept) or kept.get_ifd(ExifTags.IFD.Exif) else None


def loaded(block: bytes | None) -> Image.Exif:
    """The entries of a block; none without a block."""
    exif = Image.Exif()
    exif.load(block or b"")
    return exif


def upright(pixels: np.ndarray, block: bytes | None) -> np.ndarray:
    """A view of stored pixels ``(H, W, channels)`` with the orientation of the block applied."""
    turns = {3: 2, 6: 3, 8: 1, 4: 2, 5: 3, 7: 1}  # quarter turns to the left
    orientation = loaded(block).get(ExifTags.Base.Orientation, 1)
    turned = np.rot90(pixels, turns.get(orientation, 0))
    return turned[:, ::-1] if orientation in (2, 4, 5, 7) else turned


def resized(block: bytes | None, width: int, height: int) -> bytes | None:
    """The block with its size entries, if any, set to this size."""
    if block is None:
        return None
    exif = loaded(block)
    entries = exif.get_ifd(ExifTags.IFD.Exif)
    entries.update({tag: size for tag, size in zip(_SIZES, (width, height), strict=True) if tag in entries})
    return exif.tobytes()


def shortened(block: bytes | None, most: int) -> bytes | None:
    """A block of at most this many bytes, without the longest entries, such as maker notes."""
    while block is not None and len(block) > most:
        exif = loaded(block)
        places = [exif, *(exif.get_ifd(tag) for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo))]
        lengths = [(_length(value), place, tag) for place in places for tag, value in place.items()]
        _, place, tag = max(lengths, key=lambda entry: entry[0])
        del place[tag]
        block = exif.tobytes()
    return block


def _length(value: object) -> int:
    return len(value) if isinstance(value, bytes | str | tuple) else 1
