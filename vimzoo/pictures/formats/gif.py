"""GIF, read only."""

from ..record import Format
from ..through_pillow import header_reader, reader

FORMAT = Format(
    name="GIF",
    suffixes=(".gif",),
    starts=lambda head: head[:6] in (b"GIF87a", b"GIF89a"),
    header=header_reader("GIF"),
    read=reader("GIF"),
)
