"""Clips read from the files of films."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vimzoo.errors import UsageError
from vimzoo.film.frames import read_frames

from .augmentation import auto_augmented, erased
from .views import crops_of, drawn, random_crop, spread

TRIES = 10  # unreadable films in a row before reading gives up


@dataclass(frozen=True)
class ClipSettings:
    """How clips are prepared.

    Attributes:
        frames: Of a clip.
        size: Side of the frames in pixels.
        mean, std: Of the three channels.
        views: Clips and crops of each that held-out films are seen in.
        scale, ratio, hflip: Augmentation of training clips, as in torchvision; None and 0 switch it off.
        auto_augment: timm's, such as ``"rand-m7-n4-mstd0.5-inc1"``; every frame is changed alike.
        re_prob: How likely a rectangle of noise is put over all frames, as timm's ``RandomErasing`` does.
        seed: Of the augmentation.
    """

    frames: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    views: tuple[int, int] = (1, 1)
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.0
    auto_augment: str | None = None
    re_prob: float = 0.0
    seed: int = 0


def views_of(file: Path, settings: ClipSettings) -> Tensor:
    """The views of a film that is not for training, (views, C, T, H, W).

    Raises:
        UsageError: the file cannot be opened as a film, or holds no frame.
    """
    clips, crops = settings.views

    def all_places(count: int) -> np.ndarray:
        return np.concatenate([spread(count, settings.frames, clip, clips) for clip in range(clips)])

    parts = _pixels(read_frames(file, all_places)).split(settings.frames, dim=1)
    views = [crop for part in parts for crop in crops_of(part, settings.size, crops)]
    return torch.stack([_normalised(view, settings) for view in views])


def _pixels(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 255


def _normalised(clip: Tensor, settings: ClipSettings) -> Tensor:
    mean, std = (torch.tensor(v).view(-1, 1, 1, 1) for v in (settings.mean, settings.std))
    return (clip - mean) / std


class ClipFiles(Dataset):
    """Films and their class numbers; a film that cannot be read is replaced by the next one and marked.

    Training clips are indexed by ``(epoch, index)`` and drawn at random, others by ``index``.

    Attributes:
        unreadable: bool (N,), shared by all loader processes.
    """

    def __init__(self, files: Sequence[Path], labels: np.ndarray, settings: ClipSettings) -> None:
        self.files, self.labels, self.settings = list(files), labels, settings
        self.unreadable = torch.zeros(len(self.files), dtype=torch.bool).share_memory_()

    def part(self, places: np.ndarray) -> ClipFiles:
        """Some of the films, in the order of ``places``."""
        return ClipFiles([self.files[place] for place in places], self.labels[places], self.settings)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: int | tuple[int, ...]) -> tuple[Tensor, int]:
        """A clip (C, T, H, W), or several views of a film (views, C, T, H, W), and the class number.

        Raises:
            IndexError: there is no such film.
            OSError: `TRIES` films in a row cannot be read.
        """
        drawn_by = key if isinstance(key, tuple) else None
        index = int(key[1] if isinstance(key, tuple) else key)
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} films")
        for place in np.arange(index, index + TRIES) % len(self):
            try:
                clip = self._clip(self.files[place], drawn_by)
                return clip, int(self.labels[place])
            except UsageError:
                self.unreadable[place] = True
        raise OSError(f"{TRIES} films in a row cannot be read, from {self.files[index]} on")

    def _clip(self, file: Path, key: tuple[int, ...] | None) -> Tensor:
        own = self.settings
        if key is not None and own.scale is not None:
            draws = np.random.default_rng([own.seed, *key])
            frames = read_frames(file, partial(drawn, frames=own.frames, draws=draws))
            if own.auto_augment is not None:
                frames = auto_augmented(frames, own.auto_augment, own.size, own.mean, draws)
            clip = random_crop(_pixels(frames), own.size, own.scale, own.ratio, draws)
            clip = _normalised(clip.flip(-1) if draws.uniform() < own.hflip else clip, own)
            return erased(clip, own.re_prob, draws)
        views = views_of(file, own if key is None else replace(own, views=(1, 1)))
        return views[0] if len(views) == 1 else views

    def unreadable_names(self) -> list[str]:
        """The films that could not be read so far."""
        return [str(file) for file, bad in zip(self.files, self.unreadable.tolist(), strict=True) if bad]

    def reason(self) -> str:
        """Why the first of them could not be read."""
        place = int(self.unreadable.nonzero()[0])
        try:
            read_frames(self.files[place], lambda count: np.zeros(1, dtype=np.int64))
        except UsageError as error:
            return str(error)
        return "read a moment later"

    def seen_in(self, views: tuple[int, int]) -> ClipFiles:
        """The same films in other views; marks are shared."""
        other = ClipFiles(self.files, self.labels, replace(self.settings, views=views))
        other.unreadable = self.unreadable
        return other
