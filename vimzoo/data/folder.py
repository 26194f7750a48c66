"""Any folder of images, one sub-folder per class, read and transformed by timm.data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from timm.data.readers import create_reader
from torch.utils.data import Subset

from .reading import ReadImages, image_mode, prepared
from .splits import Splits, UsageError, stratified_split

VAL_NAMES = ("val", "validation", "valid")
LAYOUT = "DIR/train/CLASS/*.jpg with DIR/val/CLASS/*.jpg (and DIR/test/...), or DIR/CLASS/*.jpg"


def _read(path: Path, mode: str, class_map: dict[str, int] | None = None) -> Any:
    """An image folder as timm reads it, with errors that name the folder."""
    try:
        dataset = ReadImages(create_reader("", root=str(path), class_map=class_map), mode)
    except RuntimeError as error:
        raise UsageError(f"data.root: no images under {path}; expected {LAYOUT}") from error
    if "" in dataset.reader.class_to_idx:
        raise UsageError(f"data.root: {path} holds images outside any class folder; expected {LAYOUT}")
    filled = {Path(name).relative_to(path).parts[0] for name, _ in dataset.reader.samples}
    empty = sorted({p.name for p in path.iterdir() if p.is_dir() and p.name[0] != "."} - filled)
    if empty:
        raise UsageError(f"data.root: class folders without images under {path}: {', '.join(empty[:10])}")
    return dataset


def _read_train(path: Path, mode: str) -> Any:
    dataset = _read(path, mode)
    classes = list(dataset.reader.class_to_idx)
    if len(classes) < 2:
        raise UsageError(
            f"data.root: {path} has one class ({classes[0]}); expected at least two class folders"
        )
    return dataset


def _class_names(dataset: Any) -> list[str]:
    """Class folders by class number."""
    return sorted(dataset.reader.class_to_idx, key=dataset.reader.class_to_idx.get)


def _read_held_out(path: Path, mode: str, class_to_idx: dict[str, int]) -> Any:
    """A held-out folder, numbered by the training classes; it may lack some of them, not add any."""
    dataset = _read(path, mode)
    strange = sorted(set(dataset.reader.class_to_idx) - set(class_to_idx))
    if strange:
        raise UsageError(
            f"data.root: {path} has classes that training lacks: {', '.join(strange[:10])}; "
            f"expected only the {len(class_to_idx)} class folders of training"
        )
    return dataset if dataset.reader.class_to_idx == class_to_idx else _read(path, mode, class_to_idx)


def _open(root: Path, mode: str, val: float, test: float) -> tuple[Any, Any, Any, Any]:
    """(the dataset that numbers the classes, train, val, test or None) by the folder's layout."""
    val_dir = next((root / name for name in VAL_NAMES if (root / name).is_dir()), None)
    if (root / "train").is_dir() and val_dir is not None:
        train = _read_train(root / "train", mode)
        held = _read_held_out(val_dir, mode, train.reader.class_to_idx)
        test_dir = root / "test"
        tested = _read_held_out(test_dir, mode, train.reader.class_to_idx) if test_dir.is_dir() else None
        return train, train, held, tested
    if (root / "train").is_dir() or val_dir is not None:
        found = "train" if val_dir is None else val_dir.name
        raise UsageError(f"data.root={root}: found {found}/ without its counterpart; expected {LAYOUT}")
    whole, still = _read_train(root, mode), _read(root, mode)
    if test == 1:
        return whole, whole, still, still
    labels = np.array([target for _, target in whole.reader.samples])
    try:
        parts = stratified_split(labels, val, test, names=_class_names(whole))
    except UsageError as error:
        raise UsageError(f"data.root={root}: {error}") from error
    train_part, val_part, test_part = (part.tolist() for part in parts)
    return whole, Subset(whole, train_part), Subset(still, val_part), Subset(still, test_part)


def image_folder(
    root: str | None = None,
    img_size: int | None = None,
    in_chans: int = 3,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    max_unreadable: float = 0.01,
    *,
    aug: Mapping[str, Any] | None = None,
    seed: int = 0,
    pretrained_cfg: Mapping[str, Any] | None = None,
) -> Splits:
    """An image folder: DIR/{train,val[,test]}/CLASS/*.jpg, or DIR/CLASS/*.jpg with a fixed stratified split.

    Args:
        root: DIR.
        img_size: side in pixels; None takes the model's own.
        in_chans: 3 reads colour, 1 reads grey.
        val_fraction, test_fraction: shares held out where DIR has no train and val folders; a test_fraction of
            1 makes all images test images, to evaluate on.
        max_unreadable: share of the images that may be unreadable before the run stops.
        aug: arguments of timm's ``create_transform`` for training images.
        seed: seeds the augmentation, not the split.
        pretrained_cfg: the model's size, normalisation and interpolation, as timm states them.

    Raises:
        UsageError: the folder is missing, empty or laid out otherwise.
    """
    if root is None:
        raise UsageError(f"data.root is not set; expected data.root=DIR with {LAYOUT}")
    path = Path(root).expanduser()
    if not path.is_dir():
        raise UsageError(f"data.root={root}: no such folder; expected {LAYOUT}")
    classes_of, train, val, test = _open(path, image_mode(in_chans), val_fraction, test_fraction)
    return prepared(
        str(path), (train, val, test), tuple(_class_names(classes_of)), img_size, in_chans, aug, seed,
        pretrained_cfg, max_unreadable,
    )  # fmt: skip
