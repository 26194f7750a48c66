"""Two pictures of each scene become one: joined, or one of many bands sharpened with a finer one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vimzoo.errors import UsageError
from vimzoo.models.inputs import ModelWithInputs
from vimzoo.models.opening import open_model
from vimzoo.models.restoration_base import RestorationModel
from vimzoo.pictures import exif
from vimzoo.pictures.formats import SUFFIXES
from vimzoo.pictures.picture import Picture, PictureError

from .batches import Steps
from .folders import Job, real_place
from .passes import LUMA
from .restorer import Progress, Restorer

__all__ = ["OfTwo", "joining", "model_of_two", "with_others"]

_KINDS: dict[tuple[str, ...], bool] = {("x", "other"): False, ("x", "guide"): True}
"""Inputs of the models, and whether the second one sharpens the first."""


class OfTwo(RestorationModel):
    """A model of two pictures as one of an image that has the channels of both; finer pixels are further channels.

    Args:
        model: Joins or sharpens.
        peak: The number in files that becomes 1; None is the largest of an integer type, and 1 of another.

    Attributes:
        sharpens: Whether the second picture is finer and guides; otherwise both are joined, in the order of the model.
        chans, other_chans: Channels of the user's picture and of the other one.

    """

    def __init__(self, model: ModelWithInputs, peak: float | None = None) -> None:
        super().__init__()
        (first, second), names = model.inputs.values(), tuple(model.inputs)
        self.model, self.peak, self.sharpens = model, peak, _KINDS[names]
        self.scale = second.scale
        self.chans, self.other_chans = first.first[0], second.first[0]
        self.in_chans = self.chans + self.other_chans * self.scale**2
        self.out_chans = self.chans
        # the spectral model halves the fine picture twice
        self.multiple_of = getattr(model, "multiple_of", 4 // math.gcd(4, self.scale))
        self.feature_info: list[object] = []

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_chans, H, W) -> (B, out_chans, scale H, scale W)``."""
        own, other = x[:, : self.chans], F.pixel_shuffle(x[:, self.chans :], self.scale)
        return self.model(own, other) if self.sharpens else self.model(other, own)


def model_of_two(name: str, peak: float | None = None) -> OfTwo:
    """A model of two pictures, as `vimzoo.models.opening.open_model` opens it.

    Args:
        name: A registered name, the folder of a run, or an address on the hub.
        peak: As in `OfTwo`.

    Raises:
        UsageError: there is no such model, or its weights are not available.
    """
    model = open_model(name)
    if not isinstance(model, ModelWithInputs) or tuple(model.inputs) not in _KINDS:
        raise UsageError(
            f"--model {name}: {type(model).__name__} takes one picture; expected a model of two, or no --with"
        )
    return OfTwo(model, peak).eval()


def with_others(jobs: Sequence[Job], source: Path, other: Path) -> list[Job]:
    """The jobs with the other picture of each scene, by name as training matches them.

    Args:
        jobs: Of `source`.
        source, other: Two pictures, or two folders.

    Raises:
        UsageError: a picture has no counterpart, or a result would replace one.
    """
    from vimzoo.data.pairs.matching import matched  # which brings all of vimzoo.data

    if not other.exists():
        raise UsageError(f"--with {other}: no such file or folder")
    if source.is_dir() != other.is_dir():
        raise UsageError(
            f"--with {other}: expected a {'folder' if source.is_dir() else 'file'}, as {source} is one"
        )
    if source.is_dir():
        others = sorted(
            path for path in other.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()
        )
        names = ([path.relative_to(at) for path in paths] for at, paths in (
            (source, [job.source for job in jobs]), (other, others),
        ))  # fmt: skip
        try:
            found = {source / own: other / second for own, second in matched(*names)}
        except UsageError as error:
            said = error.renamed({"root": "--with"}.get)
            raise UsageError(f"{said} (low/ is {source}, high/ is {other})") from error
    else:
        found = {source: other}
    read = {real_place(path) for path in found.values()}
    for job in jobs:
        if real_place(job.target) in read:
            raise UsageError(f"{job.target}: the result would replace a picture; choose another place")
    return [replace(job, other=found[job.source]) for job in jobs]  # type: ignore[arg-type]


def joining(picture: Picture, restorer: Restorer, progress: Progress | None = None) -> Steps[Picture]:
    """One picture of two, with the metadata of the first, as a generator; see `vimzoo.restoration.batches`.

    Joined in grey, the colours of the first picture are kept; its alpha is too.

    Args:
        picture: The first, whose ``other`` is the second.
        restorer: Of an `OfTwo`.

    Raises:
        PictureError: the pictures do not fit to each other or to the model.
        FloatingPointError, RuntimeError, MemoryError: as in `Restorer`.
    """
    model, other = restorer.model, picture.other
    assert isinstance(model, OfTwo)
    assert other is not None
    _check_pair(picture, other, model)
    dtype, count = picture.pixels.dtype, picture.pixels.shape[2]
    if model.sharpens:
        bands, guide = (_unit(_bands(each), model.peak) for each in (picture, other))
        given = (bands, _unshuffled(guide, model.scale))
        stored = _stored((yield from restorer.steps(np.concatenate(given, -1), progress)), dtype, model.peak)
        further = stored[..., count:] if picture.bands is not None else None
        return picture.enlarged(stored[..., :count], further, model.scale)
    colours, others = (_unit(_colours(each), model.peak) for each in (picture, other))
    own, second = _in_channels(colours, model.chans), _in_channels(others, model.chans)
    joined = yield from restorer.steps(np.concatenate((own, second), -1), progress)
    stored = _stored(joined + (colours - own if model.chans == 1 else 0), dtype, model.peak)
    alpha = picture.pixels[..., -1:] if count in (2, 4) else picture.pixels[..., :0]
    return replace(picture, pixels=np.concatenate((stored, alpha), -1))


def _check_pair(picture: Picture, other: Picture, model: OfTwo) -> None:
    if picture.more or other.more:
        raise PictureError("several pages; expected one of each of the two pictures")
    (height, width), size = picture.pixels.shape[:2], other.pixels.shape[:2]
    if size != (height * model.scale, width * model.scale):
        times = "as many" if model.scale == 1 else f"{model.scale} times as many on each side"
        raise PictureError(
            f"{height} x {width} pixels, and the other picture has {size[0]} x {size[1]}; expected {times}"
        )
    if exif.orientation(picture.exif) != exif.orientation(other.exif):
        raise PictureError("the other picture has another orientation; expected one for both")
    if model.sharpens:
        for what, each, count in (
            ("", picture, model.chans),
            ("the other picture has ", other, model.other_chans),
        ):
            if each.pixels.shape[2] in (2, 4):
                raise PictureError(f"{what}alpha; expected bands alone")
            if (found := _bands(each).shape[2]) != count:
                raise PictureError(f"{what}{found} bands; the model takes {count}")


def _bands(picture: Picture) -> np.ndarray:
    return picture.pixels if picture.bands is None else np.concatenate((picture.pixels, picture.bands), -1)


def _colours(picture: Picture) -> np.ndarray:
    return picture.pixels[..., : 3 if picture.pixels.shape[2] > 2 else 1]


def _in_channels(colours: np.ndarray, count: int) -> np.ndarray:
    """Grey, or colour, which grey becomes by repetition."""
    if colours.shape[2] == count:
        return colours
    return colours.repeat(count, -1) if count > 1 else colours @ np.array(LUMA, np.float32)[:, None]


def _top(dtype: np.dtype, peak: float | None) -> float:
    return peak or (float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0)


def _unit(numbers: np.ndarray, peak: float | None) -> np.ndarray:
    values = (numbers / _top(numbers.dtype, peak)).astype(np.float32)
    if numbers.dtype.kind == "f" and peak is None and not (values.min() >= 0 and values.max() <= 1):
        raise PictureError(f"pixels from {values.min():g} to {values.max():g}; expected 0 to 1, or --peak")
    return values


def _stored(values: np.ndarray, dtype: np.dtype, peak: float | None) -> np.ndarray:
    values = values.astype(np.float64) * _top(dtype, peak)
    if dtype.kind in "iu":
        values = np.rint(values).clip(0, np.iinfo(dtype).max)
    return values.astype(dtype)


def _unshuffled(fine: np.ndarray, scale: int) -> np.ndarray:
    """``(scale H, scale W, C) -> (H, W, C scale**2)``, as `torch.nn.functional.pixel_shuffle` takes it."""
    image = torch.from_numpy(fine).permute(2, 0, 1)
    return F.pixel_unshuffle(image, scale).permute(1, 2, 0).numpy()
