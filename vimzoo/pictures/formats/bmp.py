"""BMP, read only."""

from ..record import Format
from ..through_pillow import header_reader, reader

FORMAT = Format(
    name="BMP",
    suffixes=(".bmp", ".dib"),
    starts=lambda head: head[:2] == b"BM",
    header=header_reader("BMP"),
    read=reader("BMP"),
)
