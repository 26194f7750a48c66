"""WebDataset shards with random access: order, resume and augmentation are as exact as with a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vimzoo.errors import UsageError

from ..images.classes import listed
from ..images.reading import ImageSettings, ReadImages
from ..images.remote import Remote, is_remote, local_path
from ..images.repeated import check_repeated
from ..images.retries import Unreachable
from ..images.shard_reader import RemoteShards, ShardReader
from ..record import Source
from ..splits import Splits

LAYOUT = "DIR/{train,val}-*.tar, and test-*.tar if there is a test set, or those in folders DIR/train, ..."
Patterns = str | Sequence[str] | None


def shards(
    root: str | os.PathLike[str] | None = None,
    train: Patterns = None,
    val: Patterns = None,
    test: Patterns = None,
    cache: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Splits:
    """WebDataset shards: DIR/train-*.tar, DIR/val-*.tar [, DIR/test-*.tar] or DIR/train/*.tar, ...

    Args:
        root: DIR, or a URL of fsspec such as ``s3://bucket/dir``; names of the classes may stand in DIR/classes.txt,
            one a line.
        train, val, test: names of the shards relative to DIR, with braces as in ``train-{0000..0099}.tar``, or a list
            of such names; None finds them, where DIR can be listed.
        cache: of a URL, folder that keeps what has been read; None keeps nothing.
        options: of `ImageSettings`.

    Raises:
        UsageError: shards are missing, or one cannot be used.
    """
    given = {"train": train, "val": val, "test": test}
    settings = ImageSettings(**options)
    if root is None:
        raise UsageError(f"`root` is not set; expected `root`=DIR with {LAYOUT}")
    root = os.fspath(root)
    if is_remote(root):
        try:
            return _remote(Remote(root.rstrip("/")), given, cache, settings)
        except (FileNotFoundError, Unreachable) as error:
            raise UsageError(f"`root`={root}: {error}") from error
    path = local_path(root)
    if not path.is_dir():
        raise UsageError(f"`root`={root}: no such folder; expected {LAYOUT}")

    def found() -> list[str]:
        files = [*path.glob("*"), *path.glob("*/*")]
        return sorted(file.relative_to(path).as_posix() for file in files if file.is_file())

    text = (path / "classes.txt").read_text() if (path / "classes.txt").is_file() else None
    return _splits(
        str(path), given, found, lambda names: ShardReader([path / name for name in names]), text, settings
    )


def _remote(
    remote: Remote,
    given: Mapping[str, Patterns],
    cache: str | os.PathLike[str] | None,
    settings: ImageSettings,
) -> Splits:
    kept = None if cache is None else Path(cache).expanduser()
    try:
        text = remote.read([("classes.txt", None, None)])[0].decode()
    except FileNotFoundError:
        text = None
    return _splits(
        remote.url,
        given,
        lambda: remote.walk(depth=1)[0],
        lambda names: RemoteShards(remote, names, kept),
        text,
        settings,
    )


def _splits(
    root: str,
    given: Mapping[str, Patterns],
    found: Callable[[], list[str]],
    opened: Callable[[list[str]], ShardReader],
    text: str | None,
    settings: ImageSettings,
) -> Splits:
    """The data set.

    Args:
        given: names of shards by part. found: lists all files, where some are not given.
        opened: makes a reader of shards by name. text: of classes.txt.
    """
    parts = {part: expanded(names) for part, names in given.items() if names is not None}
    notes: list[str] = []
    if "train" not in parts or "val" not in parts:
        listing, notes = _by_part(found())
        parts = listing | parts
    if missing := [part for part in ("train", "val") if not parts[part]]:
        raise UsageError(
            f"`root`={root}: no shards for {missing[-1]}; expected {LAYOUT}, or their names in `{missing[-1]}`"
        )
    readers = {part: opened(names) for part, names in parts.items() if names}
    notes += check_repeated(readers)
    train, val = (ReadImages(readers[part]) for part in ("train", "val"))
    test = ReadImages(readers["test"]) if "test" in readers else None
    classes = class_names(root, text, train.reader)
    for name, part in (("val", val), ("test", test)):
        if part is not None and (highest := max(part.reader.numbers())) >= len(classes):
            raise UsageError(
                f"`root`={root}: shards of {name} have class {highest}, training has {listed(classes)}"
            )
    return replace(settings.splits(root, train, val, test, classes), notes=tuple(notes))


def class_names(root: str, text: str | None, reader: ShardReader) -> tuple[str, ...]:
    """The lines of ``classes.txt``, or the class numbers from 0 to the largest."""
    count = max(reader.class_to_idx.values()) + 1
    if text is None:
        return tuple(map(str, range(count)))
    names = tuple(text.split("\n"))
    names = names[:-1] if names and not names[-1] else names
    if len(names) < count:
        raise UsageError(f"{root}/classes.txt: {len(names)} names, but the shards have class {count - 1}")
    return names


def expanded(names: str | Sequence[str]) -> list[str]:
    """Expand braces in names as a shell does: ``{0000..0099}``, ``{a,b}``."""
    if not isinstance(names, str):
        return [name for each in names for name in expanded(each)]
    if not (match := re.search(r"\{([^{}]*)\}", names)):
        return [names]
    if series := re.fullmatch(r"(\d+)\.\.(\d+)", match[1]):
        first, last = series.groups()
        choices = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
    else:
        choices = match[1].split(",")
    return [
        name
        for choice in choices
        for name in expanded(names[: match.start()] + choice + names[match.end() :])
    ]


def _by_part(names: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Shards for training, validation and test, with notes for the user.

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
                f"`root`: {packed[0]} and {len(packed) - 1} more are compressed; expected uncompressed tar files"
            )
        if left := [name for name in files if name not in found[part]]:
            notes.append(f"left out: {len(left)} files that do not end in .tar, such as {left[0]}")
        if gaps := _gaps(found[part]):
            notes.append(f"{part}: {len(gaps)} shards seem to be missing, such as the one after {gaps[0]}")
    return found, notes


def _gaps(names: list[str]) -> list[str]:
    """Shards of a numbered series whose successor is missing."""
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


SOURCE = Source("shards", shards, ImageSettings)
