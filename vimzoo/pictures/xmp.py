"""XMP packets: drops what EXIF states too, or what a result no longer has."""

from __future__ import annotations

import re

__all__ = ["described", "mentions"]

_STALE = (
    "tiff:Orientation|tiff:ImageWidth|tiff:ImageLength|tiff:[XY]Resolution|tiff:ResolutionUnit|exif:Pixel[XY]Dimension"
    "|xmp:Thumbnails|GCamera:[A-Za-z]*|Container:[A-Za-z]*|Item:[A-Za-z]*|GContainer:[A-Za-z]*|hdrgm:[A-Za-z]*"
    "|HDRGainMap:[A-Za-z]*|xmpNote:HasExtendedXMP"
)
"""Orientation and sizes, thumbnails, and what describes pictures or films that follow the first one in a file."""
_ATTRIBUTE = re.compile(rf"\s(?:{_STALE})\s*=\s*(?:\"[^\"]*\"|'[^']*')")
_ELEMENT = re.compile(rf"<({_STALE})(?:\s[^<>]*)?(?:/>|>.*?</\1\s*>)", re.DOTALL)


def described(packet: bytes | str | None) -> bytes | None:
    """A packet without orientation, sizes, thumbnails and references to other pictures in the file."""
    if not packet:
        return None
    text = packet.decode("utf-8", "surrogateescape") if isinstance(packet, bytes) else packet
    text = _ELEMENT.sub("", _ATTRIBUTE.sub("", text.rstrip("\0")))
    return text.encode("utf-8", "surrogateescape")


def mentions(packet: bytes | str | None, *names: bytes) -> bool:
    """Whether a packet holds one of these names."""
    data = packet.encode("utf-8", "replace") if isinstance(packet, str) else packet or b""
    return any(name in data for name in names)
