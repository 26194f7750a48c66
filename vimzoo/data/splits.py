"""A data set as the engine sees it (three splits, class names, input size, normalisation), and random splits."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from vimzoo.errors import UsageError

from .batches.drawing import Batching
from .batches.uniform import Uniform

if TYPE_CHECKING:
    from torch import Tensor


class Images(Protocol):
    """A map-style data set with a length."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...


@dataclass(frozen=True)
class Splits:
    """Three splits of one data set.

    ``train`` is indexed by ``(epoch, index)``, ``(epoch, index, repeat)`` under repeated augmentation, or
    ``(epoch, index, height, width)`` where images come in many sizes or stages, so that an augmented sample depends on
    nothing but the seed and its key (never on the number of workers); ``val`` and ``test`` are indexed by
    ``index``. All give a normalised float32 image ``(C, H, W)`` and its target: a class number, a class number for
    each pixel ``(H, W)``, or the image wanted. Where models take two images, a tuple of these stands for the image.
    ``classes`` is empty where there are none.

    ``eval_batch`` is the number of images evaluated at once where it must differ from the loader's ``batch_size`` (1
    for whole images of many sizes), ``scale`` the number of target pixels per image pixel and axis, ``crop_pct`` the
    share of a resized image that its centre crop keeps in evaluation. ``batching`` draws the training batches.
    Held-out images of different sizes have the height and width of each in an attribute ``shapes``.
    ``unreadable()`` returns the names of the images that could not be read so far, in any process, and raises
    ``UsageError`` when they are too many; ``damaged`` are its marks, bool (images,), which processes on different
    machines have to exchange first.

    ``labels`` are the class numbers of the training images, (N,), where they are known without reading these.
    ``pixels`` are the numbers of training pixels by class, (C,), where targets are masks; pixels of class
    ``ignore_index`` count in no loss and no score. ``spacing`` is the height and width of their pixels in mm, if known.
    Where ``frames`` is given, images are clips ``(C, frames, H, W)``, and held-out ones may be several views of a film,
    ``(views, C, frames, H, W)``, whose probabilities are averaged.
    ``members`` holds the `keys` of each part's images by the name of the part, where they are files of a folder, and
    ``notes`` what the user should know about how the data were read.
    """

    name: str
    train: Images
    val: Images
    test: Images | None
    classes: tuple[str, ...]
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    eval_batch: int | None = None
    scale: int = 1
    crop_pct: float = 1.0
    batching: Batching = field(default_factory=Uniform)
    unreadable: Callable[[], list[str]] = list
    damaged: Sequence[Tensor] = ()
    labels: np.ndarray | None = None
    members: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    pixels: np.ndarray | None = None
    ignore_index: int = 255
    spacing: tuple[float, float] | None = None
    frames: int | None = None

    def record(self) -> dict[str, Any]:
        """A record of the data for a checkpoint: class names, and folder and keys of images that are files.

        Plain containers and tensors only.
        """
        members = {part: torch.from_numpy(held) for part, held in self.members.items()}
        root = None
        if members:
            root = self.name if "://" in self.name else str(Path(self.name).resolve())
        return {"classes": list(self.classes), "root": root, "members": members}

    def with_members(self, root: Path, parts: Sequence[Sequence[PurePath]]) -> Splits:
        """These splits with ``members``: the files of training, validation and, if given, test."""
        held = {
            part: keys([file.relative_to(root) for file in files])
            for part, files in zip(("train", "val", "test"), parts, strict=False)
        }
        return replace(self, members=held)


SPLITS = ("names", "order")
"""How held-out images are drawn: by a hash of each file's name, or by the order of files, as older versions did."""


def check_split(split: str) -> None:
    """Check an argument ``split``.

    Raises:
        UsageError: it is not one of `SPLITS`.
    """
    if split not in SPLITS:
        raise UsageError(f"`split`={split}: expected one of {', '.join(SPLITS)}")


def keys(names: Sequence[PurePath]) -> np.ndarray:
    """A 64-bit hash of every name without its suffix, (N,) int64; the same on every machine and in any order."""
    texts = (unicodedata.normalize("NFC", name.with_suffix("").as_posix()) for name in names)
    digests = (
        hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest() for text in texts
    )
    return np.frombuffer(b"".join(digests), dtype="<i8").astype(np.int64)


def _check_shares(val: float, test: float) -> None:
    if not 0 < val < 1 or not 0 <= test < 1 or val + test >= 1:
        raise UsageError(
            f"`val_fraction`={val}, `test_fraction`={test}: expected shares below 1, also in sum, and a "
            "validation share above 0"
        )


def _too_few(
    label: Any, names: Sequence[str] | None, count: int, val: float, test: float, least: int
) -> UsageError:
    what = "" if names == () else f"class {names[label] if names else label} has "
    return UsageError(
        f"{what}{count} image{'s' if count > 1 else ''}, too few for "
        f"validation share {val} and test share {test}; expected at least {least}"
    )


def split_by_name(
    files: Sequence[PurePath], labels: np.ndarray, val: float, test: float, names: Sequence[str] | None = None
) -> tuple[np.ndarray, ...]:
    """Split sample indices into train, validation and test by a hash of each file's name.

    A file's part depends on its own name alone: adding images never moves a training image into validation or test.
    Shares are therefore met on average. In a class of a few images, a part that would be empty takes the image with
    the nearest hash.

    Args:
        files: relative to the folder that is split, (N,). labels: class numbers, (N,).
        val, test, names: as in `stratified_split`.

    Returns:
        Three sorted index arrays.

    Raises:
        UsageError: impossible shares, or a class too small to leave a training sample.
    """
    _check_shares(val, test)
    draws = (keys(files).view(np.uint64) >> np.uint64(11)) / 2.0**53  # uniform in 0..1
    order = np.lexsort((draws, labels))
    parts: tuple[list[int], ...] = ([], [], [])
    for label in np.unique(labels):
        members = order[labels[order] == label]
        least = int(test > 0)
        if len(members) < least + 2:
            raise _too_few(label, names, len(members), val, test, least + 2)
        n_test = min(max(int((draws[members] < test).sum()), least), len(members) - 2)
        n_held = min(max(int((draws[members] < test + val).sum()), n_test + 1), len(members) - 1)
        for part, chosen in zip(
            parts, (members[n_held:], members[n_test:n_held], members[:n_test]), strict=True
        ):
            part.extend(chosen)
    return tuple(np.sort(np.array(part, dtype=np.int64)) for part in parts)


def stratified_split(
    labels: np.ndarray, val: float, test: float, seed: int = 0, names: Sequence[str] | None = None
) -> tuple[np.ndarray, ...]:
    """Split sample indices class by class into train, validation and test, by their order.

    Args:
        labels: class numbers, (N,).
        val, test: the share of each class that goes there; a share above zero takes at least one sample.
        names: of the classes, for the error; empty if images have none.
        seed: the split depends on labels and seed alone; RandomState's stream is the same in every NumPy.

    Returns:
        Three sorted index arrays.

    Raises:
        UsageError: impossible shares, or a class too small to leave a training sample.
    """
    _check_shares(val, test)
    rng = np.random.RandomState(seed)
    parts: tuple[list[int], ...] = ([], [], [])
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        n_val, n_test = (max(1, round(len(members) * share)) if share > 0 else 0 for share in (val, test))
        if n_val + n_test >= len(members):
            raise _too_few(label, names, len(members), val, test, n_val + n_test + 1)
        cuts = np.split(members, [n_test, n_test + n_val])
        for part, chosen in zip(parts, (cuts[2], cuts[1], cuts[0]), strict=True):
            part.extend(chosen)
    return tuple(np.sort(np.array(part, dtype=np.int64)) for part in parts)
