"""WebDataset shards on disk, read by index: order, resume and augmentation are as exact as with a folder."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

from .classes import listed
from .files import SUFFIXES, hidden
from .reading import ImageSettings, ReadImages
from .splits import Splits, UsageError

LAYOUT = "DIR/{train,val}-*.tar, and test-*.tar if there is a test set, or those in folders DIR/train, ..."


class ShardReader:
    """A timm reader of tar files with ``KEY.jpg`` (or another image) beside ``KEY.cls``, a class number.

    The places of all samples are read once from the headers; an image is then one seek and one read.

    Args:
        shards: uncompressed tar files.

    Raises:
        UsageError: a shard that is no tar file, or a sample without image or class.
    """

    def __init__(self, shards: list[Path]) -> None:
        self.samples: list[tuple[Path, int, int, str, int]] = []  # shard, offset, size, key, class number
        for shard in shards:
            self.samples += _samples(shard)
        self.class_to_idx = {str(number): number for number in sorted({sample[4] for sample in self.samples})}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[io.BytesIO, int]:
        shard, offset, size, _, number = self.samples[index]
        with shard.open("rb") as file:
            file.seek(offset)
            return io.BytesIO(file.read(size)), number

    def numbers(self) -> list[int]:
        """Class numbers."""
        return [sample[4] for sample in self.samples]

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        """``SHARD/KEY``."""
        return f"{self.samples[index][0]}/{self.samples[index][3]}"


def _samples(shard: Path) -> list[tuple[Path, int, int, str, int]]:
    images: dict[str, tarfile.TarInfo] = {}
    numbers: dict[str, int] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                # A sample's key ends at the first dot of the file's name, as WebDataset has it
                folder, _, name = member.name.rpartition("/")
                if hidden(name):  # such as ._x.jpg of macOS
                    continue
                stem, _, extension = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if f".{extension.lower()}" in SUFFIXES:
                    images[key] = member
                elif extension == "cls" and (file := archive.extractfile(member)) is not None:
                    numbers[key] = int(file.read())
    except (tarfile.TarError, OSError, ValueError) as error:
        raise UsageError(f"data.root: {shard}: no readable shard ({error})") from error
    alone = sorted(images.keys() ^ numbers.keys())
    if alone or not images:
        example = f", such as {alone[0]}" if alone else ""
        raise UsageError(
            f"data.root: {shard}: {len(alone) or 'all'} samples lack an image or a class{example}; "
            "expected KEY.jpg beside KEY.cls"
        )
    return [(shard, m.offset_data, m.size, key, numbers[key]) for key, m in images.items()]


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
    found = {
        part: sorted([*path.glob(f"{part}-*.tar"), *path.glob(f"{part}/*.tar")])
        for part in ("train", "val", "test")
    }
    if not found["train"] or not found["val"]:
        raise UsageError(
            f"data.root={root}: no shards for {'val' if found['train'] else 'train'}; expected {LAYOUT}"
        )
    settings = ImageSettings(**options)
    train, val = (ReadImages(ShardReader(found[part])) for part in ("train", "val"))
    test = ReadImages(ShardReader(found["test"])) if found["test"] else None
    classes = class_names(path, train.reader)
    for name, part in (("val", val), ("test", test)):
        if part is not None and (highest := max(part.reader.numbers())) >= len(classes):
            raise UsageError(
                f"data.root={root}: shards of {name} have class {highest}, training has {listed(classes)}"
            )
    return settings.splits(str(path), train, val, test, classes)
