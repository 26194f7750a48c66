"""WebDataset shards on disk, read by index: order, resume and augmentation are as exact as with a folder."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .classes import listed
from .reading import ImageSettings, ReadImages
from .repeated import check_repeated
from .splits import Splits, UsageError
from .tar_index import BLOCK, TarIndex, header_sum, read_index

LAYOUT = "DIR/{train,val}-*.tar, and test-*.tar if there is a test set, or those in folders DIR/train, ..."


class ShardChanged(RuntimeError):
    """A shard is another one than when its headers were read; no error of an image, so it ends the run."""


class ShardReader:
    """A timm reader of tar files with ``KEY.jpg`` (or another image) beside ``KEY.cls``, a class number.

    The places of all samples are read once from the headers; an image is then one seek and one read.

    Args:
        shards: uncompressed tar files.

    Attributes:
        shards: these. indices: of their samples, one for each. starts: the number of samples before each shard, and of
            all.

    Raises:
        UsageError: a shard is damaged or cannot be used, or two hold the same samples.
    """

    def __init__(self, shards: list[Path]) -> None:
        self.shards = shards
        self.indices = [_index(shard) for shard in shards]
        self.starts = np.cumsum([0, *map(len, self.indices)])
        self.class_to_idx = {str(number): number for number in sorted(set(self.numbers()))}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> tuple[io.BytesIO, int]:
        shard, place = self._place(index)
        return io.BytesIO(self.content(shard, place)), int(self.indices[shard].numbers[place])

    def _place(self, index: int) -> tuple[int, int]:
        """The shard of a sample, and its place there."""
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        return shard, index - int(self.starts[shard])

    def content(self, shard: int, place: int) -> bytes:
        """The image file at a place of a shard.

        Raises:
            ShardChanged: the shard is another one than at the start.
        """
        index = self.indices[shard]
        with self.shards[shard].open("rb") as file:
            file.seek(index.offsets[place] - BLOCK)
            content = file.read(BLOCK + int(index.sizes[place]))
        if len(content) != BLOCK + index.sizes[place] or header_sum(content[:BLOCK]) != index.sums[place]:
            raise ShardChanged(
                f"{self.shards[shard]} has changed since it was opened: {index.keys[place]} is not where it was; "
                "expected shards that stay as they are during a run"
            )
        return content[BLOCK:]

    def numbers(self) -> list[int]:
        """Class numbers."""
        return [number for index in self.indices for number in index.numbers.tolist()]

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        """``SHARD/KEY``."""
        shard, place = self._place(index)
        return f"{self.shards[shard]}/{self.indices[shard].keys[place]}"

    def digest(self) -> bytes:
        """A hash of the shards' names without folders, and of the keys, places, sizes and classes of all samples."""
        total = hashlib.blake2b(digest_size=16)
        for shard, index in zip(self.shards, self.indices, strict=True):
            for text in (shard.name, *index.keys):
                total.update(text.encode(errors="surrogateescape") + b"\0")
            for numbers in (index.offsets, index.sizes, index.numbers):
                total.update(numbers.astype("<i8").tobytes())
        return total.digest()


def _index(shard: Path) -> TarIndex:
    try:
        with shard.open("rb") as file:
            return read_index(file, str(shard))
    except OSError as error:
        raise UsageError(f"data.root: {shard}: cannot be read ({error})") from error


def class_names(root: Path, reader: Any) -> tuple[str, ...]:
    """Lines of ``classes.txt`` beside the shards, or the class numbers, 0 to the largest."""
    count, listed = max(reader.class_to_idx.values()) + 1, root / "classes.txt"
    if not listed.is_file():
        return tuple(map(str, range(count)))
    names = tuple(listed.read_text().split("\n"))
    names = names[:-1] if names and not names[-1] else names
    if len(names) < count:
        raise UsageError(f"{listed}: {len(names)} names, but the shards have class {count - 1}")
    return names


def shards(root: str | None = None, **options: Any) -> Splits:
    """WebDataset shards: DIR/train-*.tar, DIR/val-*.tar [, DIR/test-*.tar] or DIR/train/*.tar, ...

    Args:
        root: DIR; names of the classes may stand in DIR/classes.txt, one a line.
        options: of `ImageSettings`.

    Raises:
        UsageError: shards are missing, or one cannot be used.
    """
    path = Path(root or "").expanduser()
    if root is None or not path.is_dir():
        raise UsageError(f"data.root={root}: no such folder; expected {LAYOUT}")
    names = sorted(
        str(file.relative_to(path)) for file in [*path.glob("*"), *path.glob("*/*")] if file.is_file()
    )
    found, notes = _by_part(names)
    if not found["train"] or not found["val"]:
        raise UsageError(
            f"data.root={root}: no shards for {'val' if found['train'] else 'train'}; expected {LAYOUT}"
        )
    settings = ImageSettings(**options)
    readers = {part: ShardReader([path / name for name in names]) for part, names in found.items() if names}
    notes += check_repeated(readers)
    train, val = (ReadImages(readers[part]) for part in ("train", "val"))
    test = ReadImages(readers["test"]) if "test" in readers else None
    classes = class_names(path, train.reader)
    for name, part in (("val", val), ("test", test)):
        if part is not None and (highest := max(part.reader.numbers())) >= len(classes):
            raise UsageError(
                f"data.root={root}: shards of {name} have class {highest}, training has {listed(classes)}"
            )
    return replace(settings.splits(str(path), train, val, test, classes), notes=tuple(notes))


def _by_part(names: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Shards for training, validation and test, and what a person should know of them.

    Raises:
        UsageError: one is compressed.
    """
    found: dict[str, list[str]] = {}
    notes = []
    for part in ("train", "val", "test"):
        files = [name for name in names if re.match(rf"{part}(-[^/]*|/[^./][^/]*)$", name)]
        found[part] = [name for name in files if name.endswith(".tar")]
        if packed := [name for name in files if re.search(r"\.(tgz|tar\.(gz|bz2|xz|zst))$", name)]:
            raise UsageError(
                f"data.root: {packed[0]} and {len(packed) - 1} more are compressed; expected uncompressed tar files"
            )
        if left := [name for name in files if name not in found[part]]:
            notes.append(f"left out: {len(left)} files that do not end in .tar, such as {left[0]}")
        if gaps := _gaps(found[part]):
            notes.append(f"{part}: {len(gaps)} shards seem to be missing, such as the one after {gaps[0]}")
    return found, notes


def _gaps(names: list[str]) -> list[str]:
    """Shards whose successor in a numbered series is missing."""
    numbered = {}
    for name in names:
        if match := re.fullmatch(r"(.*?)(\d+)\.tar", name):
            numbered[match[1], int(match[2])] = name
    last = {prefix: number for prefix, number in sorted(numbered)}
    return [
        name
        for (prefix, number), name in sorted(numbered.items())
        if number < last[prefix] and (prefix, number + 1) not in numbered
    ]
