"""What the engine knows of a data set: three splits, class names, input size and normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from .buckets import Shapes
    from .stages import Stages


class UsageError(ValueError):
    """A request that cannot be met; the message names the argument, what came and what was expected."""


class Images(Protocol):
    """A map-style data set that knows its length."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...


@dataclass(frozen=True)
class Splits:
    """Three splits of one data set.

    ``train`` is indexed by ``(epoch, index)``, ``(epoch, index, repeat)`` under repeated augmentation, or
    ``(epoch, index, height, width)`` where images come in many sizes or stages, so that an augmented sample depends on
    nothing but the seed and its key (never on the number of workers); ``val`` and ``test`` are indexed by
    ``index``. All give a normalised float32 image ``(C, H, W)`` and its target: a class number, or the image
    wanted. ``classes`` is empty where there are none.

    ``eval_batch`` is the number of images evaluated at once where it must differ from data.batch_size (1 for
    whole images of many sizes), ``scale`` the number of target pixels per image pixel and axis, ``crop_pct`` the
    share of a resized image that its centre crop keeps in evaluation. Where training images come in many sizes,
    ``shapes`` are those and ``kinds`` (N,) the kind of shape of each image; the held-out data sets then tell the
    size of each of their images in ``shapes``. ``stages`` are the sizes of crops and batches where they change in
    the course of a run. ``unreadable()`` names the images that could not be read so far, in
    whichever process, and raises ``UsageError`` when they are too many; ``damaged`` are its marks, bool (images,),
    that processes on different machines have to exchange first.
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
    shapes: Shapes | None = None
    kinds: np.ndarray | None = None
    stages: Stages | None = None
    unreadable: Callable[[], list[str]] = list
    damaged: Sequence[Tensor] = ()

    def record(self) -> dict[str, Any]:
        """What a run remembers of its data; plain containers for a checkpoint."""
        return {"classes": list(self.classes)}


def stratified_split(
    labels: np.ndarray, val: float, test: float, seed: int = 0, names: Sequence[str] | None = None
) -> tuple[np.ndarray, ...]:
    """Split sample indices class by class into train, validation and test.

    Args:
        labels: class numbers, (N,).
        val, test: the share of each class that goes there; a share above zero takes at least one sample.
        names: of the classes, for the error.
        seed: the split depends on labels and seed alone; RandomState's stream is the same in every NumPy.

    Returns:
        Three sorted index arrays.

    Raises:
        UsageError: impossible shares, or a class too small to leave a training sample.
    """
    if not 0 < val < 1 or not 0 <= test < 1:
        raise UsageError(
            f"data.val_fraction={val}, data.test_fraction={test}: expected shares below 1, that of validation above 0"
        )
    rng = np.random.RandomState(seed)
    parts: tuple[list[int], ...] = ([], [], [])
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        n_val, n_test = (max(1, round(len(members) * share)) if share > 0 else 0 for share in (val, test))
        if n_val + n_test >= len(members):
            raise UsageError(
                f"class {names[label] if names else label} has {len(members)} images, too few for "
                f"validation share {val} and test share {test}; expected at least {n_val + n_test + 1}"
            )
        cuts = np.split(members, [n_test, n_test + n_val])
        for part, chosen in zip(parts, (cuts[2], cuts[1], cuts[0]), strict=True):
            part.extend(chosen)
    return tuple(np.sort(np.array(part, dtype=np.int64)) for part in parts)
