"""Compares the record of the data in a checkpoint (`Splits.record`) with the current data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vimzoo.data import Splits
from vimzoo.data.images.classes import listed
from vimzoo.errors import UsageError

from ..classes import warn
from . import checkpoint

Record = Mapping[str, Any]
NAMES = {"train": "training", "val": "validation", "test": "test"}


def check_resumed(before: Record | None, now: Record, path: Path, within_epoch: bool) -> None:
    """Raise if classes differ or training images would be held out; warn about other changes.

    Args:
        before, now: records of the checkpoint and of the data. within_epoch: the checkpoint stands within an epoch,
            whose order of images has to stay.

    Raises:
        UsageError: saying how they differ.
    """
    if before is None:
        warn(
            f"resume={path}: written before runs recorded class names and images; whether they are the same is unknown"
        )
        return
    if before["classes"] != now["classes"]:
        raise UsageError(
            f"resume={path}: trained on {listed(before['classes'])}, the data have {listed(now['classes'])}; expected "
            f"the same classes. To begin a run on other ones with these weights: +model.start={path}"
        )
    if not before["members"] or not now["members"]:
        return
    trained, held = _of(before, "train"), np.union1d(_of(now, "val"), _of(now, "test"))
    everything = np.isin(held, _of(now, "train")).all()  # data.test_fraction=1 holds nothing out
    moved = int(np.isin(held, trained).sum())
    if moved and not everything:
        raise UsageError(
            f"resume={path}: {moved} of {len(held)} validation and test images are ones that the run has trained on, "
            "which makes their scores meaningless; expected the same data.val_fraction, data.test_fraction and folders"
        )
    for part, meaning in (
        ("train", "training continues with the present images"),
        ("val", "scores before and after, and so the best epoch, are not of the same images"),
    ):
        old, new = _of(before, part), _of(now, part)
        more, less = len(np.setdiff1d(new, old)), len(np.setdiff1d(old, new))
        if not more and not less:
            continue
        said = f"resume={path}: {more} {NAMES[part]} images are new and {less} are gone"
        if part == "train" and within_epoch:
            raise UsageError(
                f"{said}, in the middle of an epoch; expected its images, or a checkpoint between epochs"
            )
        warn(f"{said}: {meaning}")


def of_run(run: Path) -> Record | None:
    """The record in a run folder's best.pt; None in that of an old run."""
    try:
        return torch.load(run / checkpoint.BEST, map_location="cpu", mmap=True, weights_only=True).get("data")
    except (OSError, RuntimeError):
        return None  # loading the weights tells why


def trained_on(run: Path, data: Splits, split: str) -> int:
    """How many images of a split the run has trained on, as far as it is recorded; logs a warning if there are any."""
    before, now = of_run(run), data.record()
    if before is None or not before["members"] or not now["members"]:
        return 0
    moved = before["root"] != now["root"]
    if moved and Path(before["root"]).is_dir():  # another folder, whose images may have the same names
        return 0
    images = _of(now, split)
    count = int(np.isin(images, _of(before, "train")).sum())
    if count:
        by_name = f" by their names; {before['root']}, where these were, is not here" if moved else ""
        warn(f"{count} of {len(images)} {NAMES[split]} images are ones that {run} has trained on{by_name}")
    return count


def _of(record: Record, part: str) -> np.ndarray:
    return np.asarray(record["members"].get(part, np.empty(0, np.int64)))
