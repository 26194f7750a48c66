"""Any folder of films, one sub-folder per class; needs PyAV, the extra `films`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from timm.data import resolve_data_config

from vimzoo.errors import UsageError
from vimzoo.film import SUFFIXES

from ..images.classes import listed
from ..images.files import find_pictures
from ..images.reading import ReadImages, unreadable
from ..images.remote import local_path
from ..record import Source
from ..splits import Splits
from .folder import open_found

if TYPE_CHECKING:
    from ..clips.reading import ClipFiles, ClipSettings

AUGMENTATION = ("scale", "ratio", "hflip", "auto_augment", "re_prob")
LAYOUT = "DIR/{train,val[,test]}/CLASS/*.mp4, or DIR/CLASS/*.mp4"


def film_folder(
    root: str | os.PathLike[str] | None = None,
    img_size: int | None = None,
    frames: int = 8,
    views: Sequence[int] = (1, 1),
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    class_folders: str | None = None,
    labels: str | os.PathLike[str] | None = None,
    max_unreadable: float = 0.01,
    *,
    aug: Mapping[str, Any] | None = None,
    seed: int = 0,
    pretrained_cfg: Mapping[str, Any] | None = None,
) -> Splits:
    """A folder of films: DIR/{train,val[,test]}/CLASS/*.mp4, or DIR/CLASS/*.mp4 with a split by the files' names.

    A clip holds frames that are spread over the whole film. Validation films are seen in one clip, test films in
    ``views``, whose probabilities are averaged.

    Args:
        root: DIR.
        img_size: side of the frames in pixels; None takes the model's own.
        frames: of a clip.
        views: clips in time and crops of each that a test film is seen in; published figures are of 4 and 3.
        val_fraction, test_fraction: shares held out where DIR has no train and val folders; a test_fraction of 1 makes
            all films test films.
        class_folders, labels: as `image_folder` takes them.
        max_unreadable: share of the films that may be unreadable before the run stops.
        aug: of training clips ``scale``, ``ratio`` (of a random crop), ``hflip``, ``auto_augment`` and ``re_prob`` as
            timm has them; if empty, they are prepared as in validation.
        seed: of the augmentation.
        pretrained_cfg: timm's description of the model: its size and normalisation.

    Raises:
        UsageError: PyAV is missing, an argument has no such value, or the folder is missing, empty or laid out
            otherwise.
    """
    require_films()
    if root is None:
        raise UsageError(f"`root` is not set; expected `root`=DIR with {LAYOUT}")
    path = local_path(os.fspath(root))
    if not path.is_dir():
        raise UsageError(f"`root`={root}: no such folder; expected {LAYOUT}")
    if frames < 1:
        raise UsageError(f"`frames`={frames}: expected at least 1")
    if len(views) != 2 or not all(isinstance(count, int) and count > 0 for count in views):
        raise UsageError(f"`views`={list(views)}: expected two positive numbers, clips and crops")
    options = dict(aug or {})
    if strange := sorted(set(options) - set(AUGMENTATION)):
        raise UsageError(f"`aug`: clips take {', '.join(AUGMENTATION)}; not {', '.join(strange)}")
    from ..clips.augmentation import policy
    from ..clips.reading import ClipSettings

    known = resolve_data_config({"img_size": img_size}, pretrained_cfg=dict(pretrained_cfg or {}))
    size = known["input_size"][-1]
    if options:
        pairs: dict[str, Any] = {key: tuple(options[key]) for key in ("scale", "ratio") if key in options}
        options = {"scale": (1.0, 1.0), **options, **pairs}
        if options.get("auto_augment") is not None:
            policy(options["auto_augment"], size, tuple(known["mean"]))
    settings = ClipSettings(frames, size, tuple(known["mean"]), tuple(known["std"]), seed=seed, **options)
    listing = None if labels is None else Path(labels).expanduser()
    found = find_pictures(path, suffixes=SUFFIXES)
    parts, notes = open_found(path, found, listing, val_fraction, test_fraction, class_folders)
    train, val, test = [*(_films(part, settings) for part in parts), None][:3]
    assert train is not None and val is not None
    clips_and_crops = (views[0], views[1])
    read = [part for part in (train, val, test) if part is not None]
    numbers: dict[str, int] = parts[0].reader.class_to_idx
    names = tuple(sorted(numbers, key=numbers.__getitem__))
    return Splits(
        name=str(path),
        train=train,
        val=val,
        test=test and test.seen_in(clips_and_crops),
        classes=names,
        input_size=(3, size, size),
        mean=settings.mean,
        std=settings.std,
        labels=train.labels,
        unreadable=lambda: unreadable(read, max_unreadable),  # type: ignore[arg-type]
        damaged=[part.unreadable for part in read],
        notes=(listed(names), *notes),
        frames=frames,
    )


def require_films() -> None:
    """Check that films can be read.

    Raises:
        UsageError: PyAV is missing.
    """
    if find_spec("av") is None:
        raise UsageError("films need PyAV: pip install 'vimzoo[films]'")


def _films(part: ReadImages, settings: ClipSettings) -> ClipFiles:
    from ..clips.reading import ClipFiles

    samples = [part.reader.samples[index] for index in part.indices.tolist()]
    return ClipFiles(
        [Path(path) for path, _ in samples], np.array([number for _, number in samples]), settings
    )


SOURCE = Source("clips", film_folder)
