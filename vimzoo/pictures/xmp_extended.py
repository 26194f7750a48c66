"""XMP packets of more than one segment of JPEG: a standard packet and an extension (XMP specification, part 3)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from xml.dom import minidom
from xml.parsers.expat import ExpatError

__all__ = ["joined", "segments"]

_STANDARD, _EXTENSION = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
"""How the segments begin."""
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_NOTE = "http://ns.adobe.com/xmp/note/"
_DIGEST = re.compile(rb"HasExtendedXMP(?:\s*=\s*[\"']|\s*>\s*)([0-9A-Fa-f]{32})")
_PART = 65_400
"""Bytes of an extension in one segment."""
_ROOM = 200
"""Bytes for what a standard packet is given to find its extension, and the frame around it."""
_BEGIN, _END = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>', '<?xpacket end="w"?>'


def joined(packet: bytes | str | None, bodies: Sequence[bytes]) -> tuple[bytes | str | None, bool]:
    """A packet with the properties of its extension.

    Args:
        packet: The standard packet.
        bodies: Contents of the file's APP1 segments; those that begin with `_EXTENSION` count, in any order.

    Returns:
        The packet, and whether nothing is missing from it.
    """
    extensions = [body for body in bodies if body.startswith(_EXTENSION)]
    if not extensions or not packet:
        return packet, not extensions
    data = packet.encode() if isinstance(packet, str) else packet.rstrip(b"\0")
    found = _DIGEST.search(data)
    parts, start = {}, len(_EXTENSION)
    for segment in extensions:
        if found is not None and segment[start : start + 32].upper() == found[1].upper():
            parts[int.from_bytes(segment[start + 36 : start + 40], "big")] = segment[start + 40 :]
    extension = b"".join(part for _, part in sorted(parts.items()))
    if found is None or hashlib.md5(extension).hexdigest().encode().upper() != found[1].upper():
        return packet, False
    try:
        root, other = _parsed(data), _parsed(extension)
        rdf, more = _rdf(root), _rdf(other)
    except ValueError:
        return packet, False
    for description in list(_elements(more)):
        for outer in (more, other):
            _declare_as(outer, description)
        rdf.appendChild(description)
    return root.toxml().encode(), True


def segments(packet: bytes, most: int) -> list[bytes]:
    """The contents of the segments that hold a packet, each of at most ``most`` bytes.

    The longest properties go to the extension, which some programs do not read.

    Raises:
        ValueError: the packet is too long for one segment and is not valid XML, or a part of it cannot be moved.
    """
    if len(_STANDARD) + len(packet) <= most:
        return [_STANDARD + packet]
    root, other = _parsed(packet), _parsed(packet)
    own, others = list(_elements(_rdf(root))), list(_elements(_rdf(other)))
    properties = sorted(
        (len(node.toxml()) if node.nodeType == node.ELEMENT_NODE else len(node.value), place, index)
        for place, description in enumerate(own)
        for index, node in enumerate(_properties(description))
    )
    length, room = len(root.toxml().encode()), most - len(_STANDARD) - _ROOM
    moved: set[tuple[int, int]] = set()
    while length > room and properties:
        size, place, index = properties.pop()
        moved.add((place, index))
        length -= size
    for place, (description, twin) in enumerate(zip(own, others, strict=True)):
        both = zip(list(_properties(description)), list(_properties(twin)), strict=True)
        for index, (node, same) in enumerate(both):
            _remove(*((description, node) if (place, index) in moved else (twin, same)))
    extension = other.toxml().encode()
    digest = hashlib.md5(extension).hexdigest().upper()
    own[0].setAttribute("xmlns:xmpNote", _NOTE)
    own[0].setAttribute("xmpNote:HasExtendedXMP", digest)
    standard = _STANDARD + (_BEGIN + root.toxml() + _END).encode()
    if len(standard) > most:
        raise ValueError(f"XMP of {len(packet)} bytes whose parts are too long for a segment of JPEG")
    head = _EXTENSION + digest.encode() + len(extension).to_bytes(4, "big")
    return [standard] + [
        head + first.to_bytes(4, "big") + extension[first : first + _PART]
        for first in range(0, len(extension), _PART)
    ]


def _parsed(packet: bytes) -> minidom.Element:
    try:
        root = minidom.parseString(packet).documentElement
    except ExpatError as error:
        raise ValueError(f"XMP is not valid XML: {error}") from error
    assert root is not None
    return root


def _rdf(root: minidom.Element) -> minidom.Element:
    found = root.getElementsByTagNameNS(_RDF, "RDF")
    if not found or not list(_elements(found[0])):
        raise ValueError("XMP without descriptions")
    return found[0]


def _elements(node: minidom.Element) -> Iterator[minidom.Element]:
    return (child for child in node.childNodes if isinstance(child, minidom.Element))


def _properties(description: minidom.Element) -> Iterator[minidom.Attr | minidom.Element]:
    """The properties of a description: attributes, except for names of namespaces and of its subject, and elements."""
    for name in sorted(description.attributes.keys()):
        attribute = description.getAttributeNode(name)
        if attribute is not None and not name.startswith("xmlns") and attribute.namespaceURI != _RDF:
            yield attribute
    yield from _elements(description)


def _remove(description: minidom.Element, node: minidom.Attr | minidom.Element) -> None:
    if isinstance(node, minidom.Element):
        description.removeChild(node)
    else:
        description.removeAttributeNode(node)


def _declare_as(outer: minidom.Element, inner: minidom.Element) -> None:
    """Declare the namespaces of an element in one within it that leaves it."""
    for name, value in outer.attributes.items():
        if name.startswith("xmlns") and not inner.hasAttribute(name):
            inner.setAttribute(name, value)
