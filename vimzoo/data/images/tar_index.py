"""Index of the samples in a WebDataset shard, from its tar headers; damaged files are rejected."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from vimzoo.errors import UsageError

from .files import SUFFIXES, hidden

BLOCK = tarfile.BLOCKSIZE
PADDING = 2 * BLOCK + tarfile.RECORDSIZE
"""Zeros after the last file at most: two blocks that mark the end, up to a full record."""
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of compressed files."""
COPY = "expected a whole tar file; copy or download it again"


@dataclass(frozen=True)
class TarIndex:
    """The samples of a shard, in its order.

    Attributes:
        keys: names of the samples. offsets, sizes: of the images in bytes, (N,) int64. numbers: of their classes, (N,)
            int64. sums: check sums of the headers before the images, (N,) int64.
    """

    keys: tuple[str, ...]
    offsets: np.ndarray
    sizes: np.ndarray
    numbers: np.ndarray
    sums: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)


def read_index(file: BinaryIO, name: str) -> TarIndex:
    """Read all headers of a shard and its class numbers.

    Args:
        file: the shard, seekable. name: of the shard, for errors.

    Raises:
        UsageError: it is compressed, cut off or damaged, holds no samples, or a sample is not one image beside one
            class number.
    """
    try:
        return _read(file, f"`root`: {name}")
    except (tarfile.TarError, OSError) as error:
        raise UsageError(f"`root`: {name}: no readable shard ({error}); {COPY}") from error


def _read(file: BinaryIO, where: str) -> TarIndex:
    start = file.read(BLOCK)
    if kind := next((kind for magic, kind in COMPRESSED.items() if start.startswith(magic)), None):
        raise UsageError(
            f"{where} is compressed ({kind}); expected an uncompressed tar file, so unpack it once"
        )
    if not start:
        raise UsageError(f"{where} is empty; {COPY}")
    file.seek(0)
    images: dict[str, tarfile.TarInfo] = {}
    numbers: dict[str, int] = {}
    regular: dict[str, tarfile.TarInfo] = {}
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            # A sample's key ends at the first dot of the file's name, as WebDataset has it
            folder, _, base = member.name.rpartition("/")
            stem, _, extension = base.partition(".")
            key = f"{folder}/{stem}" if folder else stem
            if member.isreg():
                regular[member.name] = member
            image = f".{extension.lower()}" in SUFFIXES
            if (
                member.isdir() or hidden(base) or not (image or extension == "cls")
            ):  # ._x.jpg of macOS is hidden
                continue
            stored = regular.get(member.linkname) if member.islnk() else member
            if stored is None or not stored.isreg() or stored.issparse():
                raise UsageError(
                    f"{where}: {member.name} is a link or a sparse file; expected the file itself "
                    "(tar --dereference --hard-dereference)"
                )
            if image:
                _set(images, key, stored, where)
            else:
                _set(numbers, key, _number(archive, stored, where), where)
        _check_end(file, archive.offset, where)
    if not images and not numbers:
        raise UsageError(f"{where} holds no samples; expected KEY.jpg beside KEY.cls")
    if alone := sorted(images.keys() ^ numbers.keys()):
        raise UsageError(
            f"{where}: {len(alone)} samples lack an image or a class, such as {alone[0]}; "
            "expected KEY.jpg beside KEY.cls"
        )
    members = list(images.values())
    return TarIndex(
        keys=tuple(images),
        offsets=np.array([member.offset_data for member in members], dtype=np.int64),
        sizes=np.array([member.size for member in members], dtype=np.int64),
        numbers=np.array([numbers[key] for key in images], dtype=np.int64),
        sums=np.array([member.chksum for member in members], dtype=np.int64),
    )


def header_sum(block: bytes) -> int | None:
    """The check sum of a header if it is right, else None."""
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").chksum  # type: ignore[attr-defined]
    except tarfile.TarError:
        return None


def _set(found: dict[str, Any], key: str, value: Any, where: str) -> None:
    if key in found:
        raise UsageError(
            f"{where}: two images or classes have the key {key}; expected one image beside one class"
        )
    found[key] = value


def _number(archive: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> int:
    file = archive.extractfile(member)
    assert file is not None  # it is of a regular file
    text = file.read(80).strip()
    if not text.isdigit():
        raise UsageError(f"{where}: {member.name} holds {text!r}; expected a class number")
    return int(text)


def _check_end(file: BinaryIO, offset: int, where: str) -> None:
    """Refuse a file whose last readable header was not followed by the end of an archive.

    Python's tarfile stops there without an error, whatever follows. A file that ends there may have been written
    without an end, but nothing distinguishes it from an interrupted copy.

    Args:
        offset: of what follows the last file.
    """
    size = file.seek(0, 2)
    if size <= offset:
        cut = "the last file is cut off" if size < offset else "it ends without the mark of a tar file's end"
        hint = "" if size < offset else ", or, if its writer leaves that out, append 1024 zero bytes to it"
        raise UsageError(f"{where}: {cut} after {size} bytes; {COPY}{hint}")
    file.seek(offset)
    rest = size - offset
    block = file.read(BLOCK)
    if any(block):
        raise UsageError(f"{where} is damaged or cut off at byte {offset}: no valid header; {COPY}")
    if rest > PADDING:
        raise UsageError(
            f"{where}: {rest} bytes follow its end at byte {offset}, expected at most {PADDING}; it was joined "
            "with another one, padded, or downloaded in part into a file of full size; copy it again or write it anew"
        )
    if any(file.read(rest)):
        raise UsageError(
            f"{where}: other data follow its end at byte {offset}; {COPY}, or unpack joined ones"
        )
