"""OpenEXR: linear light in floating point, through the package OpenEXR."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..numbers import unmultiplied
from ..picture import Picture, PictureError, check_size, needs
from ..record import Format, Header, Request

_LINEAR = (1, 8, 0, 1)
_COLOURS = ("R", "G", "B")


@contextlib.contextmanager
def _opened(file: IO[bytes], header_only: bool = False) -> Iterator[Any]:
    """An open EXR file; the library takes names of files alone."""
    try:
        import OpenEXR
    except ImportError as error:
        raise needs("OpenEXR to read EXR", "exr") from error
    name = getattr(file, "name", None)
    if isinstance(name, str) and Path(name).is_file():
        with OpenEXR.File(name, separate_channels=True, header_only=header_only) as found:
            yield found
        return
    with tempfile.NamedTemporaryFile(suffix=".exr") as copy:
        file.seek(0)
        copy.write(file.read())
        copy.flush()
        with OpenEXR.File(copy.name, separate_channels=True, header_only=header_only) as found:
            yield found


def _size(found: Any) -> tuple[int, int]:
    (left, top), (right, bottom) = found.header()["dataWindow"]
    return int(right - left + 1), int(bottom - top + 1)


def _read(file: IO[bytes], request: Request) -> Picture:
    with _opened(file, header_only=True) as found:
        check_size(*_size(found), request.max_pixels)
    with _opened(file) as found:
        if request.pages != "first" and len(found.parts) > 1:
            raise PictureError(f"holds {len(found.parts)} parts; expected one, or --pages first")
        channels = {name: channel.pixels for name, channel in found.parts[0].channels.items()}
    wanted = next((names for names in (_COLOURS, ("Y",)) if set(names) <= set(channels)), None)
    if wanted is None:
        raise PictureError(f"EXR with the channels {', '.join(channels)}; expected R, G and B, or Y")
    names = (*wanted, "A") if "A" in channels else wanted
    if len({channels[name].shape for name in channels}) > 1:
        raise PictureError("EXR with channels of different sizes; expected equal ones")
    pixels = np.stack([channels[name] for name in names], -1)
    others = [channels[name].astype(pixels.dtype) for name in sorted(set(channels) - set(names))]
    if "A" in names:
        pixels = unmultiplied(pixels)
    return Picture(pixels, bands=np.stack(others, -1) if others else None, cicp=_LINEAR)


def _header(file: IO[bytes]) -> Header:
    with _opened(file, header_only=True) as found:
        return (*_size(found), 1)


def _write(file: IO[bytes], picture: Picture, quality: int) -> None:
    try:
        import OpenEXR
    except ImportError as error:
        raise needs("OpenEXR to write EXR", "exr") from error
    pixels = picture.pixels if picture.pixels.dtype == np.float16 else picture.pixels.astype(np.float32)
    count = pixels.shape[2]
    if count in (2, 4):
        pixels = np.concatenate([pixels[..., :-1] * pixels[..., -1:], pixels[..., -1:]], -1)
    names = (("Y",) if count < 3 else _COLOURS) + (("A",) if count in (2, 4) else ())
    channels = {name: np.ascontiguousarray(pixels[..., place]) for place, name in enumerate(names)}
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.exr"
        with OpenEXR.File(header, channels) as made:
            made.write(str(path))
        file.write(path.read_bytes())


def _refused(picture: Picture) -> str | None:
    if picture.pixels.dtype.kind == "f" and picture.bands is None and picture.cicp == _LINEAR:
        return None
    return "EXR is written from linear floating point without further bands; choose TIFF or PNG"


FORMAT = Format(
    name="EXR",
    suffixes=(".exr",),
    starts=lambda head: head[:4] == b"\x76\x2f\x31\x01",
    header=_header,
    read=_read,
    write=_write,
    numbers=True,
    refused=_refused,
    colours=True,
    package="OpenEXR",
)
