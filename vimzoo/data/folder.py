"""Any folder of images, one sub-folder per class, read and transformed by timm.data."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import ImageDataset, create_transform, resolve_data_config
from torch import Tensor
from torch.utils.data import Dataset, Subset

from .splits import Images, Splits, UsageError, stratified_split

VAL_NAMES = ("val", "validation", "valid")
LAYOUT = "DIR/train/CLASS/*.jpg with DIR/val/CLASS/*.jpg (and DIR/test/...), or DIR/CLASS/*.jpg"


class SeededImages(Dataset):
    """Training images indexed by (epoch, index), each transformed under random numbers of its own.

    timm's transforms draw from Python's, NumPy's and torch's global generators; all three are seeded for the
    sample and put back, so neither the number of workers nor the model's dropout changes what is drawn.
    """

    def __init__(self, dataset: Images, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()
        seed = int(np.random.SeedSequence([self.seed, *key]).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed every GPU
        try:
            return self.dataset[key[1]]
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.set_rng_state(before[2])


def _read(path: Path, mode: str, class_map: dict[str, int] | None = None) -> Any:
    """An image folder as timm reads it, with errors that name the folder."""
    try:
        dataset = ImageDataset(str(path), class_map=class_map, input_img_mode=mode)
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
    modes = {1: "L", 3: "RGB"}
    if in_chans not in modes:
        raise UsageError(f"data.in_chans={in_chans}: expected 1 (grey) or 3 (colour)")
    classes_of, train, val, test = _open(path, modes[in_chans], val_fraction, test_fraction)

    sizes = resolve_data_config({"img_size": img_size}, pretrained_cfg=dict(pretrained_cfg or {}))
    height, width = sizes["input_size"][-2:]
    mean, std = sizes["mean"], sizes["std"]
    if in_chans == 1:
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    shared = dict(
        input_size=(in_chans, height, width), mean=mean, std=std, interpolation=sizes["interpolation"]
    )
    still = create_transform(**shared, crop_pct=sizes["crop_pct"], crop_mode=sizes["crop_mode"])
    for dataset, transform in ((train, None), (val, still), (test, still)):
        if dataset is not None:
            base: Any = dataset.dataset if isinstance(dataset, Subset) else dataset
            try:
                base.transform = transform or create_transform(**shared, is_training=True, **(aug or {}))
            except TypeError as error:
                raise UsageError(f"aug.transform={dict(aug or {})}: {error}") from error
    return Splits(
        name=str(path),
        train=SeededImages(train, seed),
        val=val,
        test=test,
        classes=tuple(_class_names(classes_of)),
        input_size=(in_chans, height, width),
        mean=tuple(mean),
        std=tuple(std),
        crop_pct=sizes["crop_pct"],
    )
