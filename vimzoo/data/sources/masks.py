"""Images and masks from the user's folders, for segmentation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from vimzoo.errors import UsageError

from ..images.classes import listed
from ..masks.codes import Codes, parsed_codes
from ..masks.folders import Files, found_files
from ..masks.samples import EvaluatedMasks, MaskPairs, TrainedMasks, checked_augmentation
from ..masks.survey import Survey, surveyed
from ..masks.volumes import PLANES, check_same_grid, is_volume, slice_of, slices_of
from ..pairs.crops import MODES, PixelCache
from ..pairs.folders import divided
from ..record import Source
from ..splits import Splits, check_split

FITS = ("resize", "crop")
CLASS_LIST = "classes.txt"


def mask_folder(
    root: str | os.PathLike[str] | None = None,
    img_size: int | Sequence[int] | None = None,
    fit: str = "resize",
    in_chans: int = 3,
    classes: Sequence[str] | None = None,
    map: Any = None,
    colours: Sequence[Sequence[int]] | None = None,
    ignore_index: int = 255,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split: str = "names",
    cache_mb: float = 1024,
    plane: str = "axial",
    window: Sequence[float] | None = None,
    spacing: Sequence[float] | None = None,
    *,
    aug: Mapping[str, Any] | None = None,
    seed: int = 0,
    pretrained_cfg: Mapping[str, Any] | None = None,
) -> Splits:
    """Images and masks: DIR/images with DIR/masks, or divided into train, val and test above or below these.

    All masks are read before training, so that wrong values, colours and sizes are found at once.

    Args:
        root: DIR.
        img_size: Height and width of training samples, or one number for both; None is the model's.
        fit: ``resize``: whole images are resized to ``img_size``, and scored at their own size. ``crop``: training
            samples are crops, and in evaluation windows of this size cover the whole image.
        in_chans: 3 reads colour, 1 grey.
        classes: Names of the classes; None takes the lines of DIR/classes.txt, or numbers them.
        map: What the values in the masks mean, see `vimzoo.data.masks.codes.parsed_codes`; None: class numbers.
        colours: Of masks that hold colours, one [red, green, blue] for each class.
        ignore_index: Class number of pixels that do not count.
        val_fraction, test_fraction: Shares held out where DIR has no train and val folders; a test_fraction of 1
            makes all images test images, to evaluate on.
        split: How these are chosen, see `vimzoo.data.splits.SPLITS`.
        cache_mb: Decoded files kept in memory by every process that loads.
        plane: Of the slices of volumes (NIfTI): axial, coronal or sagittal, whatever the order of a file's axes.
        window: Intensities of volumes that become black and white, in the files' unit; None takes the percentiles 0.5
            and 99.5 of each volume.
        spacing: Height and width of a pixel in mm, for distances in evaluation; None measures in pixels. Volumes hold
            their own.
        aug: See `vimzoo.data.masks.samples.AUGMENTATIONS`.
        seed: Of the augmentation, not of the split.
        pretrained_cfg: timm's description of the model, for its size and normalisation.

    Raises:
        UsageError: the folder is missing or laid out otherwise, a file has no partner, an image and its mask differ in
            size, a mask has a value or colour that means nothing, or an option does not fit.
    """
    check_split(split)
    augmentation = checked_augmentation(aug)
    if fit not in FITS:
        raise UsageError(f"`fit`={fit}: expected one of {', '.join(FITS)}")
    if in_chans not in MODES:
        raise UsageError(f"`in_chans`={in_chans}: expected 1 (grey) or 3 (colour)")
    if plane not in PLANES:
        raise UsageError(f"`plane`={plane}: expected one of {', '.join(PLANES)}")
    shown, sides = _two(window, "window", "two intensities, the lower one first"), _two(spacing, "spacing")
    known = pretrained_cfg or {}
    size = _sides(known.get("input_size", (3, 256, 256))[1:] if img_size is None else img_size)
    mean, std = (
        _of_channels(known.get(name) or usual, in_chans)
        for name, usual in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD))
    )
    codes = parsed_codes(map, colours, ignore_index)
    files, notes = found_files(root)
    folder = Path(str(root)).expanduser()
    by_part: Any = {part: (masks, images) for part, (images, masks) in files.items()}  # named by the second
    parts: Any = divided(by_part, val_fraction, test_fraction, split, folder, _above(files))
    parts = _in_slices(parts, plane)
    if sides is not None and any(slice_of(path) for path in parts[0][1]):
        raise UsageError(f"`spacing`={spacing}: expected none with volumes, which hold their own")
    kinds = ("train", "val", "test")[: len(parts)]
    distinct = {
        id(images): (images, masks) for masks, images in parts
    }  # a test_fraction of 1 repeats one part
    surveys = {key: surveyed(*pair, codes) for key, pair in distinct.items()}
    found = [surveys[id(images)] for _, images in parts]
    names = _class_names(folder, classes, codes, found)
    pixels, *_ = [survey.pixels(codes, len(names)) for survey in found]
    if missing := [name for name, count in zip(names, pixels, strict=True) if not count]:
        notes = (*notes, f"no training mask has a pixel of {listed(missing)}")
    cache = PixelCache(int(cache_mb * 2**20))
    pairs = {
        kind: MaskPairs(images, masks, codes, len(names), mean, std, cache, shown)
        for kind, (masks, images) in zip(kinds, parts, strict=True)
    }
    whole = size if fit == "resize" else None
    held = [
        EvaluatedMasks(pairs[kind], survey.shapes, whole)
        for kind, survey in zip(kinds, found, strict=True)
        if kind != "train"
    ]
    data = Splits(
        name=str(root),
        train=TrainedMasks(pairs["train"], size, fit == "resize", augmentation, seed),
        val=held[0],
        test=held[1] if len(held) > 1 else None,
        classes=names,
        input_size=(in_chans, *size),
        mean=mean,
        std=std,
        eval_batch=None if fit == "resize" else 1,
        notes=notes,
        pixels=pixels,
        ignore_index=ignore_index,
        spacing=sides,
    )
    return data.with_members(folder, [pairs[kind].images for kind in kinds])


def _in_slices(parts: Sequence[Files], plane: str) -> list[Files]:
    """Lists of files with the slices of each volume in its place; the same list stays the same.

    Raises:
        UsageError: of an image and its mask one is a volume, or they have different grids.
    """
    done: dict[int, Files] = {}
    for masks, images in parts:
        if id(images) in done:
            continue
        marks: list[Path] = []
        shown: list[Path] = []
        for mask, image in zip(masks, images, strict=True):
            if is_volume(mask) != is_volume(image):
                raise UsageError(f"{mask}, {image}: expected volumes (NIfTI) for both, or for neither")
            if is_volume(image):
                check_same_grid(image, mask)
            marks += slices_of(mask, plane) if is_volume(mask) else [mask]
            shown += slices_of(image, plane) if is_volume(image) else [image]
        done[id(images)] = marks, shown
    return [done[id(images)] for _, images in parts]


def _two(given: Sequence[float] | None, name: str, wanted: str = "two") -> tuple[float, float] | None:
    """Two numbers: a window's rise, sides of a pixel are positive."""
    if given is None:
        return None
    values = [] if isinstance(given, str) else [float(value) for value in given]
    right = len(values) == 2 and (values[0] < values[1] if name == "window" else min(values) > 0)
    if not right:
        expected = wanted if name == "window" else "height and width of a pixel in mm, both above 0"
        raise UsageError(f"`{name}`={given}: expected {expected}")
    return values[0], values[1]


def _sides(given: Any) -> tuple[int, int]:
    sides = (given, given) if isinstance(given, int) else tuple(given)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UsageError(f"`img_size`={given}: expected a positive number of pixels, or [height, width]")
    return sides


def _of_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Mean or deviation of so many channels; for grey images the average of the colours'."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def _above(files: Mapping[str, Files]) -> Path:
    """The folder of the training images, for the split by name."""
    return Path(os.path.commonpath([path.parent for path in files["train"][0]]))


def _class_names(
    folder: Path, given: Sequence[str] | None, codes: Codes, found: Sequence[Survey]
) -> tuple[str, ...]:
    """Names of the classes: as given, as in the list of the folder, or numbers.

    Raises:
        UsageError: the list cannot be read, is too short, or names a class twice; or there is one class only.
    """
    least = codes.least
    if least is None:
        least = 1 + max(survey.largest(codes.ignore_index) for survey in found)
    where = "`classes`"
    if given is None and (folder / CLASS_LIST).is_file():
        where = str(folder / CLASS_LIST)
        try:
            lines = (folder / CLASS_LIST).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{where}: cannot be read ({error})") from error
        given = [line.strip() for line in lines if line.strip()]
    if given is None:
        binary = ("background", "foreground") if codes.binary else None
        names = binary or tuple(str(number) for number in range(least))
    else:
        names = tuple(str(name) for name in given)
        if len(set(names)) < len(names):
            raise UsageError(f"{where}: {listed(names)}; expected each name once")
        if codes.least is not None and len(names) < least:
            raise UsageError(f"{where}: {listed(names)}; the masks have {least}")
    if len(names) < 2:
        raise UsageError(
            f"`root`: the masks hold only class 0 and ignored pixels ({codes.ignore_index}); expected two classes or "
            "more. Black and white masks need `map`=binary"
        )
    if 0 <= codes.ignore_index < len(names):
        raise UsageError(
            f"`ignore_index`={codes.ignore_index}: expected a number that is no class's, 0..{len(names) - 1}"
        )
    return names


SOURCE = Source("masks", mask_folder, targets="masks")
