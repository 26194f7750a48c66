"""PBM, PGM and PPM, read only."""

from __future__ import annotations

import re
from typing import IO

import numpy as np

from ..numbers import to_16_bits
from ..picture import Picture, PictureError, check_size
from ..record import Format, Header, Request
from ..through_pillow import header, read

_HEADER = re.compile(rb"(P[56Ff])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+([-+.\deE]+)\s")


def read_map(file: IO[bytes], request: Request) -> Picture:
    """Read binary files of more than 8 bits here, because Pillow cuts colours to 8; the others through Pillow."""
    file.seek(0)
    head = _HEADER.match(file.read(4096))
    if head is None or (head[1] in (b"P5", b"P6") and float(head[4]) < 256):
        return read(file, request, "PPM")
    width, height, channels = int(head[2]), int(head[3]), 3 if head[1] in (b"P6", b"PF") else 1
    check_size(width, height, request.max_pixels)
    top, floats = float(head[4]), head[1] in (b"PF", b"Pf")
    kind = np.dtype(("<f4" if top < 0 else ">f4") if floats else ">u2")
    file.seek(head.end())
    data = file.read(width * height * channels * kind.itemsize)
    pixels = np.frombuffer(data, kind).reshape(height, width, channels)  # raises if the file is cut
    if floats:
        return Picture(pixels[::-1].astype(np.float32))
    if not 0 < top < 65536 or pixels.max() > top:
        raise PictureError(f"pixels up to {pixels.max()} with a maximum of {top:g}")
    return Picture(_scaled(pixels, int(top)))


def header_of_map(file: IO[bytes]) -> Header:
    """Width and height, from the header."""
    file.seek(0)
    head = _HEADER.match(file.read(4096))
    return header(file, "PPM") if head is None else (int(head[2]), int(head[3]), 1)


def _scaled(pixels: np.ndarray, top: int) -> np.ndarray:
    if top == 65535:
        return pixels.astype(np.uint16)
    bits = (top + 1).bit_length() - 1
    if top == 2**bits - 1:
        return to_16_bits(pixels, bits)
    return np.rint(pixels * (65535 / top)).astype(np.uint16)


FORMAT = Format(
    name="PNM",
    suffixes=(".ppm", ".pgm", ".pbm", ".pnm"),
    starts=lambda head: head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in b" \t\r\n#",
    header=header_of_map,
    read=read_map,
)
