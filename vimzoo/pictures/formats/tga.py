"""TGA, which has no signature, read only."""

from ..record import Format
from ..through_pillow import header_reader, reader

FORMAT = Format(
    name="TGA",
    suffixes=(".tga",),
    starts=lambda head: (
        len(head) > 16
        and head[1] in (0, 1)
        and head[2] in (1, 2, 3, 9, 10, 11)
        and head[16] in (1, 8, 16, 24, 32)
    ),
    header=header_reader("TGA"),
    read=reader("TGA"),
)
