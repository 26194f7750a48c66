"""Images read through timm's readers: what cannot be read is replaced, counted and listed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor
from torch.utils.data import Dataset, Subset

from .splits import Images, Splits, UsageError

TRIES = 50  # unreadable images in a row before reading gives up


class ReadImages(Dataset):
    """Images and class numbers of a timm reader, transformed.

    In place of an image that cannot be read comes the next one, as in ``timm.data.ImageDataset``; but here it is
    marked in ``unreadable`` (N,), which all loader processes share.

    Args:
        reader: gives (file, class number, ...) by index; has ``class_to_idx`` and ``filename(index)``.
        mode: of the image: RGB, or L for grey.
        transform: from an image to a tensor; may be set later.
    """

    def __init__(
        self, reader: Any, mode: str, transform: Callable[[Image.Image], Tensor] | None = None
    ) -> None:
        self.reader, self.mode, self.transform = reader, mode, transform
        self.unreadable = torch.zeros(len(reader), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} images")  # it also ends a loop over the images
        for place in range(index, index + TRIES):
            file, target, *_ = self.reader[place % len(self)]
            try:
                with Image.open(file) as image:
                    picture = image.convert(self.mode)
                break
            except (
                OSError,
                SyntaxError,
                ValueError,
                Image.DecompressionBombError,
            ):  # what Pillow's decoders raise
                self.unreadable[place % len(self)] = True
        else:
            raise OSError(f"{TRIES} images in a row cannot be read, from {self.reader.filename(index)} on")
        return picture if self.transform is None else self.transform(picture), int(target)

    def unreadable_names(self) -> list[str]:
        """Files that could not be read so far, by name."""
        return [str(self.reader.filename(int(index))) for index in self.unreadable.nonzero()]


class SeededImages(Dataset):
    """Training images indexed by (epoch, index), each transformed under random numbers of its own.

    timm's transforms draw from Python's, NumPy's and torch's global generators; all three are seeded for the
    sample and put back, so neither the number of workers nor the model's dropout changes what is drawn.
    """

    def __init__(self, dataset: Images, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, ...]) -> tuple[Tensor, int]:
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


def image_mode(in_chans: int) -> str:
    """Pillow's mode for that many channels.

    Raises:
        UsageError: neither 1 nor 3.
    """
    modes = {1: "L", 3: "RGB"}
    if in_chans not in modes:
        raise UsageError(f"data.in_chans={in_chans}: expected 1 (grey) or 3 (colour)")
    return modes[in_chans]


def prepared(
    name: str,
    parts: tuple[Any, Any, Any],
    classes: tuple[str, ...],
    img_size: int | None,
    in_chans: int,
    aug: Mapping[str, Any] | None,
    seed: int,
    pretrained_cfg: Mapping[str, Any] | None,
    max_unreadable: float,
) -> Splits:
    """Splits of images that are read, with timm's transforms for training and evaluation.

    Args:
        parts: ``ReadImages``, or a ``Subset`` of one, for training, validation and test (which may be None).
        img_size: side in pixels; None takes the model's own.
        aug: arguments of timm's ``create_transform`` for training images.
        pretrained_cfg: the model's size, normalisation and interpolation, as timm states them.
        max_unreadable: share of the images that may be unreadable.

    Raises:
        UsageError: ``create_transform`` refuses an argument.
    """
    sizes = resolve_data_config({"img_size": img_size}, pretrained_cfg=dict(pretrained_cfg or {}))
    mean, std = tuple(sizes["mean"]), tuple(sizes["std"])
    if in_chans == 1:
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    input_size = (in_chans, *sizes["input_size"][-2:])
    shared = dict(input_size=input_size, mean=mean, std=std, interpolation=sizes["interpolation"])
    try:
        training = create_transform(**shared, is_training=True, **(aug or {}))
    except TypeError as error:
        raise UsageError(f"aug.transform={dict(aug or {})}: {error}") from error
    still = create_transform(**shared, crop_pct=sizes["crop_pct"], crop_mode=sizes["crop_mode"])
    read: list[Any] = [
        part.dataset if isinstance(part, Subset) else part for part in parts if part is not None
    ]
    for place, images in enumerate(read):
        images.transform = still if place else training
    return Splits(
        name=name,
        train=SeededImages(parts[0], seed),
        val=parts[1],
        test=parts[2],
        classes=classes,
        input_size=input_size,
        mean=mean,
        std=std,
        crop_pct=sizes["crop_pct"],
        unreadable=lambda: unreadable(read, max_unreadable),
    )


def unreadable(parts: list[ReadImages], share: float) -> list[str]:
    """Names of all images that could not be read so far, each once.

    Raises:
        UsageError: in one of the parts they are more than ``share`` of its images.
    """
    for images in parts:
        names = images.unreadable_names()
        if len(names) > share * len(images):
            raise UsageError(
                f"{len(names)} of {len(images)} images cannot be read, such as {names[0]}; expected at most the "
                f"share data.max_unreadable={share}"
            )
    return sorted({name for images in parts for name in images.unreadable_names()})
