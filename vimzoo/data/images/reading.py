"""Images read by timm's readers; unreadable ones are replaced, counted and listed."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor
from torch.utils.data import Dataset

from vimzoo.errors import UsageError, first_line

from ..batches.buckets import Buckets, Shape, Shapes
from ..batches.drawing import Batching
from ..batches.uniform import Uniform
from ..splits import Splits
from .decode import DAMAGED, MODES, read_image, size_of

TRIES = 50  # unreadable images in a row before reading gives up
READERS = 16  # threads that read headers
# Arguments that switch off the augmentation that timm's create_transform does by default
NO_AUG = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0, "color_jitter": None}


class ReadImages(Dataset):
    """Images and class numbers of a timm reader, transformed.

    An image that cannot be read is replaced by the next one, as in ``timm.data.ImageDataset``, and marked in
    ``unreadable``, which all parts and all loader processes share.

    Attributes:
        reader: index -> (file, class number, ...); has ``class_to_idx`` and ``filename(index)``.
        indices: the reader's indices of these images.
        unreadable: bool (N,), over the reader's images.
        mode: Pillow's mode: RGB, or L for grey.
        upright: whether images are rotated by their EXIF orientation.
        transform: (image, height and width or None) -> tensor; None returns images as they are.
        shapes: height and width of each transformed image if they differ, else None.
    """

    def __init__(self, reader: Any) -> None:
        self.reader = reader
        self.indices = np.arange(len(reader))
        self.unreadable = torch.zeros(len(reader), dtype=torch.bool).share_memory_()
        self.mode, self.upright = "RGB", True
        self.transform: Callable[[Image.Image, Shape | None], Tensor] | None = None
        self.shapes: list[Shape] | None = None

    def part(self, places: np.ndarray) -> ReadImages:
        """Some of the images, in the order of ``places``."""
        chosen = copy.copy(self)
        chosen.indices = self.indices[places]
        chosen.shapes = None if self.shapes is None else [self.shapes[place] for place in places]
        return chosen

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.read(index, None if self.shapes is None else self.shapes[index])

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, int]]:
        """A batch, for torch's loader."""
        self.ahead(indices)
        return [self[index] for index in indices]

    def ahead(self, indices: Sequence[int]) -> None:
        """Prefetch images, if the reader can."""
        if (ahead := getattr(self.reader, "ahead", None)) is not None:
            ahead(self.indices[list(indices)].tolist())

    def read(self, index: int, shape: Shape | None = None) -> tuple[Any, int]:
        """An image, resized to ``shape`` if given, and its class number.

        Raises:
            IndexError: there is no such image.
            OSError: `TRIES` images in a row cannot be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} images")  # also ends iteration
        for place in self.indices[np.arange(index, index + TRIES) % len(self)].tolist():
            try:
                file, target, *_ = self.reader[place]
                with file:
                    picture = read_image(file, self.mode, self.upright)
                break
            except DAMAGED:
                self.unreadable[place] = True
        else:
            raise OSError(
                f"{TRIES} images in a row cannot be read, from {self.reader.filename(self.indices[index])} on"
            )
        return picture if self.transform is None else self.transform(picture, shape), int(target)

    def sizes(self) -> np.ndarray:
        """Heights and widths (N, 2) of the files in pixels, from their headers; 1 x 1 if unreadable."""

        def size(index: int) -> Shape:
            try:
                with self.reader[index][0] as file:
                    return size_of(file, self.upright)
            except DAMAGED:
                return 1, 1

        with ThreadPoolExecutor(READERS) as pool:  # I/O bound
            return np.array(list(pool.map(size, self.indices.tolist())), dtype=np.int64).reshape(-1, 2)

    def labels(self) -> np.ndarray | None:
        """Class numbers (N,), or None if the reader would have to read the images."""
        numbers = getattr(self.reader, "numbers", None)
        return None if numbers is None else np.array(numbers())[self.indices]

    def files(self) -> list[Path]:
        """The files of these images, if the reader reads files."""
        return [Path(self.reader.samples[index][0]) for index in self.indices.tolist()]

    def unreadable_names(self) -> list[str]:
        """Names of the files that could not be read so far."""
        return [str(self.reader.filename(int(index))) for index in self.unreadable.nonzero()]

    def reason(self) -> str:
        """Why the first unreadable file cannot be read."""
        try:
            with self.reader[int(self.unreadable.nonzero()[0])][0] as file:
                read_image(file, self.mode)
        except DAMAGED as error:
            return first_line(error)
        return "it can be read now"


class SeededImages(Dataset):
    """Training images by key (see `Splits`), each augmented with its own random seed.

    timm's transforms draw from the global generators of Python, NumPy and torch. All three are seeded for each sample
    and restored afterwards, so neither the number of workers nor the model's dropout affects the augmentation.
    """

    def __init__(self, images: ReadImages, seed: int) -> None:
        self.images, self.seed = images, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, keys: Sequence[tuple[int, ...]]) -> list[tuple[Tensor, int]]:
        """A batch, for torch's loader."""
        self.images.ahead([key[1] for key in keys])
        return [self[key] for key in keys]

    def __getitem__(self, key: tuple[int, ...]) -> tuple[Tensor, int]:
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()
        seed = int(np.random.SeedSequence([self.seed, *key]).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed every GPU
        try:
            return self.images.read(key[1], (key[2], key[3]) if len(key) == 4 else None)
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.set_rng_state(before[2])


class Transforms:
    """timm's transform, one per image size.

    Args:
        size: default height and width.
        options: of ``timm.data.create_transform``.

    Raises:
        TypeError: an option is unknown.
    """

    def __init__(self, size: Shape, **options: Any) -> None:
        self.size, self.options = size, options
        self.made = {size: create_transform(size, **options)}

    def __call__(self, image: Image.Image, shape: Shape | None = None) -> Tensor:
        shape = shape or self.size
        if shape not in self.made:
            self.made[shape] = create_transform(shape, **self._fitting(shape))
        return self.made[shape](image)

    def _fitting(self, shape: Shape) -> dict[str, Any]:
        """Random crops get the aspect ratio of the shape, so that they are distorted no more than square ones."""
        if not self.options.get("is_training") or self.options.get("train_crop_mode") in ("rkrc", "rkrr"):
            return self.options
        wider = shape[1] * self.size[0] / (shape[0] * self.size[1])
        return self.options | {"ratio": tuple(wider * ratio for ratio in self.options["ratio"])}


@dataclass
class ImageSettings:
    """How images are prepared for a model by timm's transforms; validated before any image is read.

    Attributes:
        img_size: side in pixels; None takes the model's own.
        in_chans: 3 reads colour, 1 reads grey.
        upright: rotate photographs by their EXIF orientation.
        max_unreadable: fraction of the images that may be unreadable before the run stops.
        sides: None trains on squares of ``img_size``. Otherwise training images are squares of these sides and oblong
            shapes of the same areas, whichever is nearest to the image; evaluation keeps the shape of an image too, at
            the area of ``img_size``.
        step, max_aspect: see `Shapes`.
        aug: arguments of timm's ``create_transform`` for training images. Augmentation that is not named is off; if
            empty, training images are prepared as in evaluation.
        seed: for the augmentation, not for the split.
        pretrained_cfg: timm's description of the model: image size, normalisation, interpolation.

    Raises:
        UsageError: ``create_transform`` refuses an argument, or a value is out of range.
    """

    img_size: int | None = None
    in_chans: int = 3
    upright: bool = True
    max_unreadable: float = 0.01
    sides: Sequence[int] | None = None
    step: int = 16
    max_aspect: float = 2.0
    aug: Mapping[str, Any] | None = None
    seed: int = 0
    pretrained_cfg: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.in_chans not in MODES:
            raise UsageError(f"`in_chans`={self.in_chans}: expected 1 (grey) or 3 (colour)")
        if not isinstance(self.max_unreadable, int | float) or not 0 <= self.max_unreadable <= 1:
            raise UsageError(f"`max_unreadable`={self.max_unreadable}: expected a share from 0 to 1")
        self.shapes = None if self.sides is None else Shapes(tuple(self.sides), self.step, self.max_aspect)
        known = resolve_data_config(
            {"img_size": self.img_size}, pretrained_cfg=dict(self.pretrained_cfg or {})
        )
        self.mean, self.std = tuple(known["mean"]), tuple(known["std"])
        if self.in_chans == 1:
            self.mean, self.std = (sum(self.mean) / len(self.mean),), (sum(self.std) / len(self.std),)
        self.size: Shape = tuple(known["input_size"][-2:])
        self.crop_pct = known["crop_pct"]
        shared = dict(mean=self.mean, std=self.std, interpolation=known["interpolation"])
        self.still = Transforms(self.size, **shared, crop_pct=self.crop_pct, crop_mode=known["crop_mode"])
        self.training, aug = self.still, dict(self.aug or {})
        try:
            if aug and not aug.get("no_aug"):
                self.training = Transforms(self.size, **shared, is_training=True, **(NO_AUG | aug))
        except TypeError as error:
            raise UsageError(f"`aug`={aug}: {error}") from error

    def splits(
        self, name: str, train: ReadImages, val: ReadImages, test: ReadImages | None, classes: Sequence[str]
    ) -> Splits:
        """The data set, from the images of its parts."""
        read = [part for part in (train, val, test) if part is not None]
        for part in read:
            part.mode, part.upright, part.transform = MODES[self.in_chans], self.upright, self.still
        train.transform = self.training
        val, test = self._by_shape(val), test and self._by_shape(test)
        return Splits(
            name=name,
            train=SeededImages(train, self.seed),
            val=val,
            test=test,
            classes=tuple(classes),
            input_size=(self.in_chans, *self.size),
            mean=self.mean,
            std=self.std,
            crop_pct=self.crop_pct,
            batching=self._batching(train),
            labels=train.labels(),
            unreadable=lambda: unreadable(read, self.max_unreadable),
            damaged=[part.unreadable for part in read],
        )

    def _batching(self, train: ReadImages) -> Batching:
        return (
            Uniform() if self.shapes is None else Buckets(self.shapes, _kinds(train, self.shapes), self.size)
        )

    def _by_shape(self, images: ReadImages) -> ReadImages:
        """Images for evaluation, sorted by shape if they keep their shapes."""
        if self.shapes is None:
            return images
        kinds, side = _kinds(images, self.shapes), round(math.sqrt(math.prod(self.size)))
        order = np.argsort(kinds, kind="stable")
        images = images.part(order)
        images.shapes = [self.shapes.shape(kind, side) for kind in kinds[order].tolist()]
        return images


def _kinds(images: ReadImages, shapes: Shapes) -> np.ndarray:
    """The bin of every image; files are not opened if all shapes are squares."""
    return shapes.kinds(images.sizes() if shapes.oblong else np.ones((len(images), 2)))


class TooManyUnreadable(UsageError):
    """Too many images cannot be read; ``names`` are all of them so far."""

    def __init__(self, message: str, names: list[str]) -> None:
        super().__init__(message)
        self.names = names


def unreadable(parts: list[ReadImages], share: float) -> list[str]:
    """Names of all images that could not be read so far, without repeats.

    Raises:
        TooManyUnreadable: more than ``share`` of the images of one part are unreadable.
    """
    everything = sorted({name for images in parts for name in images.unreadable_names()})
    for images in parts:
        names = images.unreadable_names()
        if len(names) > share * len(images.unreadable):
            raise TooManyUnreadable(
                f"{len(names)} of {len(images.unreadable)} images cannot be read, such as {names[0]} "
                f"({images.reason()}); expected at most the share `max_unreadable`={share}",
                everything,
            )
    return everything
