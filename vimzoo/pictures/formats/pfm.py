"""PFM, floating point numbers under the header of the other portable maps, read only."""

from ..record import Format
from .netpbm import header_of_map, read_map

FORMAT = Format(
    name="PFM",
    suffixes=(".pfm",),
    starts=lambda head: head[:2] in (b"PF", b"Pf") and head[2:3] in (b" ", b"\t", b"\r", b"\n"),
    header=header_of_map,
    read=read_map,
    instead=".tif",
)
