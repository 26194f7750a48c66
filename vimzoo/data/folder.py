"""Any folder of images, one sub-folder per class, read and transformed by timm.data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from timm.data.readers import create_reader

from .reading import ImageSettings, ReadImages
from .splits import Splits, UsageError, check_split, split_by_name, stratified_split

VAL_NAMES = ("val", "validation", "valid")
LAYOUT = "DIR/train/CLASS/*.jpg with DIR/val/CLASS/*.jpg (and DIR/test/...), or DIR/CLASS/*.jpg"


def _read(path: Path, class_map: dict[str, int] | None = None) -> ReadImages:
    """An image folder as timm reads it, with errors that name the folder."""
    try:
        dataset = ReadImages(create_reader("", root=str(path), class_map=class_map))
    except RuntimeError as error:
        raise UsageError(f"data.root: no images under {path}; expected {LAYOUT}") from error
    if "" in dataset.reader.class_to_idx:
        raise UsageError(f"data.root: {path} holds images outside any class folder; expected {LAYOUT}")
    filled = {Path(name).relative_to(path).parts[0] for name, _ in dataset.reader.samples}
    empty = sorted({p.name for p in path.iterdir() if p.is_dir() and p.name[0] != "."} - filled)
    if empty:
        raise UsageError(f"data.root: class folders without images under {path}: {', '.join(empty[:10])}")
    return dataset


def _read_train(path: Path, least: int = 2) -> ReadImages:
    dataset = _read(path)
    classes = list(dataset.reader.class_to_idx)
    if len(classes) < least:
        raise UsageError(
            f"data.root: {path} has one class ({classes[0]}); expected at least two class folders"
        )
    return dataset


def _class_names(dataset: ReadImages) -> tuple[str, ...]:
    """Class folders by class number."""
    return tuple(sorted(dataset.reader.class_to_idx, key=dataset.reader.class_to_idx.get))


def _read_held_out(path: Path, class_to_idx: dict[str, int]) -> ReadImages:
    """A held-out folder, numbered by the training classes; it may lack some of them, not add any."""
    dataset = _read(path)
    strange = sorted(set(dataset.reader.class_to_idx) - set(class_to_idx))
    if strange:
        raise UsageError(
            f"data.root: {path} has classes that training lacks: {', '.join(strange[:10])}; "
            f"expected only the {len(class_to_idx)} class folders of training"
        )
    return dataset if dataset.reader.class_to_idx == class_to_idx else _read(path, class_to_idx)


def _open(
    root: Path, val: float, test: float, split: str
) -> tuple[ReadImages, ReadImages, ReadImages | None]:
    """Training, validation and test images by the folder's layout."""
    val_dir = next((root / name for name in VAL_NAMES if (root / name).is_dir()), None)
    if (root / "train").is_dir() and val_dir is not None:
        train = _read_train(root / "train")
        held = _read_held_out(val_dir, train.reader.class_to_idx)
        test_dir = root / "test"
        return train, held, _read_held_out(test_dir, train.reader.class_to_idx) if test_dir.is_dir() else None
    if (root / "train").is_dir() or val_dir is not None:
        found = "train" if val_dir is None else val_dir.name
        raise UsageError(f"data.root={root}: found {found}/ without its counterpart; expected {LAYOUT}")
    whole = _read_train(root, least=1 if test == 1 else 2)
    parts: Sequence[np.ndarray] = (np.arange(len(whole)),) * 3
    if test != 1:
        labels = np.array([target for _, target in whole.reader.samples])
        try:
            if split == "names":
                names = [Path(name).relative_to(root) for name, _ in whole.reader.samples]
                parts = split_by_name(names, labels, val, test, _class_names(whole))
            else:
                parts = stratified_split(labels, val, test, names=_class_names(whole))
        except UsageError as error:
            raise UsageError(f"data.root={root}: {error}") from error
    train, held, tested = (whole.part(part) for part in parts)
    return train, held, tested if test else None


def image_folder(
    root: str | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split: str = "names",
    **options: Any,
) -> Splits:
    """An image folder: DIR/{train,val[,test]}/CLASS/*.jpg, or DIR/CLASS/*.jpg with a fixed stratified split.

    Args:
        root: DIR.
        val_fraction, test_fraction: shares held out where DIR has no train and val folders; a test_fraction of
            1 makes all images test images, to evaluate on.
        split: how these are chosen, see `SPLITS`.
        options: of `ImageSettings`.

    Raises:
        UsageError: the folder is missing, empty or laid out otherwise.
    """
    if root is None:
        raise UsageError(f"data.root is not set; expected data.root=DIR with {LAYOUT}")
    path = Path(root).expanduser()
    if not path.is_dir():
        raise UsageError(f"data.root={root}: no such folder; expected {LAYOUT}")
    settings = ImageSettings(**options)
    check_split(split)
    parts = _open(path, val_fraction, test_fraction, split)
    data = settings.splits(str(path), *parts, _class_names(parts[0]))
    return data.with_members(path, [part.files() for part in parts if part is not None])
