"""Any folder of images, one sub-folder per class."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
from timm.data.readers import create_reader

from vimzoo.errors import UsageError

from ..images.cache import Kept
from ..images.classes import listed
from ..images.files import Found, find_pictures, natural_key
from ..images.label_file import read_labels
from ..images.layout import LAYOUT, class_names, split_folders, unwrapped
from ..images.reading import ImageSettings, ReadImages
from ..images.remote import Fetched, Range, Remote, is_remote, local_path
from ..images.retries import Unreachable
from ..record import Source
from ..splits import Splits, check_split, split_by_name, stratified_split


class ClassFolders:
    """A reader with timm's interface: files and their class names.

    Args:
        root: the folder that ``files`` are relative to, in the order of their indices. labels: a class name each.
    """

    def __init__(self, root: Path, files: list[str], labels: list[str]) -> None:
        self.root, self.files = root, list(files)
        self.class_to_idx = {name: number for number, name in enumerate(sorted(set(labels), key=natural_key))}
        self.samples = [
            (f"{root}/{file}", self.class_to_idx[label]) for file, label in zip(files, labels, strict=True)
        ]

        self.fetched: Fetched | None = None  # of a server, by the path of a sample

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, number = self.samples[index]
        return (open(path, "rb") if self.fetched is None else io.BytesIO(self.fetched[path])), number

    def ahead(self, indices: Sequence[int]) -> None:
        """Prefetch files."""
        if self.fetched is not None:
            self.fetched.ahead([self.samples[index][0] for index in indices])

    def numbers(self) -> list[int]:
        """Class number of every file."""
        return [number for _, number in self.samples]

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        """The path of a file relative to the root."""
        return self.files[index]


def _read(root: Path, files: list[str], class_folders: str | None, least: int = 1) -> ReadImages:
    """Reader of one part of the data: ``files`` (``CLASS/...``) below ``root``."""
    if not files:
        raise UsageError(f"`root`: no images under {root}; expected {LAYOUT}")
    dataset = ReadImages(ClassFolders(root, files, class_names(root, files, class_folders)))
    return _checked(dataset, root, least)


def _checked(dataset: ReadImages, root: Path, least: int) -> ReadImages:
    if len(names := list(dataset.reader.class_to_idx)) < least:
        raise UsageError(f"`root`: {root} has one class ({names[0]}); expected at least two class folders")
    return dataset


def _held_out(dataset: ReadImages, root: Path, train: ReadImages) -> ReadImages:
    """Number the classes of a held-out folder as in training; it may lack classes but not add any."""
    numbers, known = dataset.reader.class_to_idx, train.reader.class_to_idx
    if strange := sorted(set(numbers) - set(known)):
        raise UsageError(
            f"`root`: {root} has classes that training lacks: {', '.join(strange[:10])}; "
            f"expected only the {len(known)} class folders of training"
        )
    names = list(numbers)
    dataset.reader.samples = [(path, known[names[number]]) for path, number in dataset.reader.samples]
    dataset.reader.class_to_idx = known
    return dataset


def _labels(dataset: ReadImages) -> np.ndarray:
    return np.array([number for _, number in dataset.reader.samples])


def _names(dataset: ReadImages) -> tuple[str, ...]:
    """Class names by number."""
    return tuple(sorted(dataset.reader.class_to_idx, key=dataset.reader.class_to_idx.__getitem__))


def _held_out_at_random(whole: ReadImages, root: Path, val: float, test: float) -> list[ReadImages]:
    """Random training, validation and test images (no test if its share is 0; all images in each part if it is 1)."""
    if test == 1:
        return [whole.part(np.arange(len(whole))) for _ in range(3)]  # prepared in different ways
    try:
        files = [PurePosixPath(name) for name in whole.reader.files]
        parts = split_by_name(files, _labels(whole), val, test, _names(whole))
    except UsageError as error:
        raise UsageError(f"`root`={root}: {error}") from error
    return [whole.part(part) for part in parts][: 3 if test else 2]


def _open(
    root: Path, found: Found, val: float, test: float, class_folders: str | None
) -> tuple[list[ReadImages], list[str]]:
    """Training, validation and any test images according to the folder's layout, with notes on it."""
    parts, notes = split_folders(root, found.files)
    if class_folders != "leaf" and any(file.count("/") > (2 if parts else 1) for file in found.files):
        notes.append("folders inside class folders belong to their class")
    if not parts:
        if empty := sorted(set(found.folders) - {file.partition("/")[0] for file in found.files}):
            raise UsageError(f"`root`: class folders without images under {root}: {', '.join(empty[:10])}")
        whole = _read(root, found.files, class_folders, least=1 if test == 1 else 2)
        return _held_out_at_random(whole, root, val, test), notes
    read = {
        kind: _read(root / folder, files, class_folders, 2 if kind == "train" else 1)
        for kind, (folder, files) in parts.items()
    }
    return _in_order(read, root, val), notes


def _in_order(read: dict[str, ReadImages], root: Path, val: float) -> list[ReadImages]:
    """Training, validation and any test images; without a validation folder it is split off from training."""
    for kind in ("val", "test"):
        if kind in read:
            _held_out(read[kind], root / kind, read["train"])
    if "val" in read:
        return [read[kind] for kind in ("train", "val", "test") if kind in read]
    return [
        *_held_out_at_random(read["train"], root, val, 0),
        *(read[kind] for kind in ("test",) if kind in read),
    ]


def _open_listed(
    root: Path, found: Found, labels: Path, val: float, test: float
) -> tuple[list[ReadImages], list[str]]:
    """As `_open`, with classes and splits from a CSV file."""
    listed, notes = read_labels(root, labels, found.files)
    read = {kind: ReadImages(ClassFolders(root, *pair)) for kind, pair in listed.items()}
    first = _checked(read[""] if "" in read else read["train"], root, least=1 if test == 1 else 2)
    return (_held_out_at_random(first, root, val, test) if "" in read else _in_order(read, root, val)), notes


def _open_as_before(root: Path, val: float, test: float) -> list[ReadImages]:
    """The parts as older versions read them: by timm's reader, split by the order of files."""

    def read(path: Path) -> ReadImages:
        try:
            return ReadImages(create_reader("", root=str(path)))
        except RuntimeError as error:
            raise UsageError(f"`root`: no images under {path}; expected {LAYOUT}") from error

    held = next((root / name for name in ("val", "validation", "valid") if (root / name).is_dir()), None)
    if (root / "train").is_dir() and held is not None:
        train = read(root / "train")
        folders = [held, *(root / name for name in ("test",) if (root / name).is_dir())]
        return [train, *(_held_out(read(folder), folder, train) for folder in folders)]
    whole = read(root)
    if test == 1:
        return [whole.part(np.arange(len(whole))) for _ in range(3)]  # prepared in different ways
    return [whole.part(part) for part in stratified_split(_labels(whole), val, test, names=_names(whole))][
        : 3 if test else 2
    ]


def open_found(
    root: Path, found: Found, labels: Path | None, val: float, test: float, class_folders: str | None
) -> tuple[list[ReadImages], list[str]]:
    """The parts of the images found below a folder, with notes on its layout."""
    if labels is not None:
        return _open_listed(root, found, labels, val, test)
    inner, found = unwrapped(root, found)
    parts, notes = _open(inner, found, val, test, class_folders)
    around = [f"read from {inner}"] if inner != root else []
    return parts, [*around, *notes, *(line for line in (found.left_out(),) if line)]


def _open_remote(
    remote: Remote,
    labels: Path | None,
    val: float,
    test: float,
    class_folders: str | None,
    cache: str | os.PathLike[str] | None,
) -> tuple[Path, tuple[list[ReadImages], list[str]]]:
    """As `open_found`, below a URL; also returns the path that represents the URL."""
    root = cast(Path, PurePosixPath(remote.url))  # has fewer slashes than the URL
    try:
        parts, notes = open_found(root, remote.pictures(), labels, val, test, class_folders)
    except (FileNotFoundError, Unreachable, UsageError) as error:
        raise UsageError(f"`root`={remote.url}: {str(error).replace(str(root), remote.url)}") from error
    kept = None
    if cache is not None:
        name = hashlib.blake2b(remote.url.encode(), digest_size=16).hexdigest()
        kept = Kept(Path(cache).expanduser() / "pictures" / name)
    for part in parts:
        part.reader.fetched = Fetched(remote, partial(_whole_file, f"{root}/"), kept)
    return root, (parts, [note.replace(str(root), remote.url) for note in notes])


def _whole_file(root: str, path: str) -> Range:
    return path.removeprefix(root), None, None


def image_folder(
    root: str | os.PathLike[str] | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split: str = "names",
    class_folders: str | None = None,
    labels: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Splits:
    """An image folder: DIR/{train,val[,test]}/CLASS/*.jpg, or DIR/CLASS/*.jpg with a split by the files' names.

    Folders inside class folders belong to the class; links are followed; hidden files and folders are left out. The
    data set's ``notes`` report how the folder was read and what was left out.

    Args:
        root: DIR, or a URL of fsspec such as ``s3://bucket/dir``.
        val_fraction, test_fraction: shares held out where DIR has no train and val folders; a test_fraction of
            1 makes all images test images, to evaluate on.
        split: how these are chosen, see `vimzoo.data.splits.SPLITS`; ``order`` also reads classes as older versions
            did.
        class_folders: ``top`` names classes by the outermost folders, ``leaf`` by the innermost; None infers which.
        labels: a CSV file with columns file (relative to DIR), label and, optionally, split; the names of folders are
            then ignored.
        cache: of a URL, folder that keeps the pictures that have been read; None keeps none.
        options: of `ImageSettings`.

    Raises:
        UsageError: the folder is missing, empty or laid out otherwise, or can be read in two ways.
    """
    if root is None:
        raise UsageError(f"`root` is not set; expected `root`=DIR with {LAYOUT}")
    root = os.fspath(root)
    if class_folders not in (None, "top", "leaf"):
        raise UsageError(f"`class_folders`={class_folders}: expected `None`, top or leaf")
    check_split(split)
    settings = ImageSettings(**options)
    shares = val_fraction, test_fraction
    listing = None if labels is None else Path(labels).expanduser()
    if is_remote(root):
        if split == "order":
            raise UsageError(f"`split`=order: expected names where `root` is a URL ({root})")
        name = root.rstrip("/")
        path, (parts, notes) = _open_remote(Remote(name), listing, *shares, class_folders, cache)
    else:
        path = local_path(root)
        name = str(path)
        if not path.is_dir():
            raise UsageError(f"`root`={root}: no such folder; expected {LAYOUT}")
        if split == "order" and listing is None:
            parts, notes = _open_as_before(path, *shares), []
        else:
            parts, notes = open_found(path, find_pictures(path), listing, *shares, class_folders)
    train, val, test = [*parts, None][:3]
    assert train is not None and val is not None
    files = [part.files() for part in (train, val, test) if part is not None]
    data = settings.splits(name, train, val, test, _names(train)).with_members(path, files)
    return replace(data, notes=(listed(data.classes), *notes))


SOURCE = Source("folder", image_folder, ImageSettings)
