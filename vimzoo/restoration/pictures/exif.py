"""EXIF blocks: what of them describes a picture rather than how its pixels were stored."""

import numpy as np
from PIL import ExifTags, Image

__all__ = ["described", "loaded", "resized", "shortened", "upright"]

_LAYOUT_TAGS = {
    *range(254, 267), 273, 277, 278, 279, 280, 281, 284, 301, 317, 320, *range(322, 326), 330, 338, 339, 340, 341, 347,
    *range(512, 532), 700, 33723, 34377, 34675,
}  # fmt: skip
"""Tags of EXIF and TIFF that say how pixels are stored, or repeat what stands elsewhere."""
_SIZES = (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)


def described(exif: Image.Exif) -> bytes | None:
    """A block without thumbnail and storage, of a damaged one the orientation alone; ``None`` if nothing is left."""
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
    except Exception:  # whatever a damaged block makes of itself
        kept = Image.Exif()
        orientation = exif.get(ExifTags.Base.Orientation)
        if isinstance(orientation, int):
            kept[ExifTags.Base.Orientation] = orientation
        block = kept.tobytes()
    return block if len(kept) or kept.get_ifd(ExifTags.IFD.Exif) else None


def loaded(block: bytes | None) -> Image.Exif:
    """The entries of a block, none if there is no block."""
    exif = Image.Exif()
    exif.load(block or b"")
    return exif


def upright(pixels: np.ndarray, block: bytes | None) -> np.ndarray:
    """Pixels ``(H, W, channels)`` as stored, turned and mirrored as the orientation in a block says; a view."""
    turns = {3: 2, 6: 3, 8: 1, 4: 2, 5: 3, 7: 1}  # quarter turns to the left
    orientation = loaded(block).get(ExifTags.Base.Orientation, 1)
    turned = np.rot90(pixels, turns.get(orientation, 0))
    return turned[:, ::-1] if orientation in (2, 4, 5, 7) else turned


def resized(block: bytes | None, width: int, height: int) -> bytes | None:
    """A block in which the size, where it is stated, is this one."""
    if block is None:
        return None
    exif = loaded(block)
    entries = exif.get_ifd(ExifTags.IFD.Exif)
    entries.update({tag: size for tag, size in zip(_SIZES, (width, height), strict=True) if tag in entries})
    return exif.tobytes()


def shortened(block: bytes | None, most: int) -> bytes | None:
    """A block of at most so many bytes: the longest entries are left out, such as what makers of cameras add."""
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
