"""A user's own images to learn restoration from: folders of pairs, or clean images that are degraded on the fly."""

from pathlib import Path
from typing import Any

import numpy as np

from .degradations import Degradation
from .layout import SPLIT_NAMES
from .pair_settings import Files, PairSettings
from .pairs import image_size
from .splits import Splits, UsageError, check_split, split_by_name, stratified_split

__all__ = ["degraded_folder", "image_files", "paired_files", "paired_folder"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
PAIRS_LAYOUT = "DIR/low with DIR/high, or DIR/{train,val[,test]}/{low,high}; files of a pair have one name"
CLEAN_LAYOUT = "images in DIR, or in DIR/{train,val[,test]}"


def image_files(folder: Path) -> list[Path]:
    """All image files below ``folder``, in order of their names.

    Raises:
        UsageError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UsageError(f"data.root: no folder {folder}")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise UsageError(f"data.root: no images under {folder}; expected {', '.join(SUFFIXES)}")
    return found


def paired_files(low: Path, high: Path) -> tuple[list[Path], list[Path], int]:
    """Degraded and clean files of two folders in one order, and the scale between them.

    A degraded file is named like the clean one, or like it with ``x2``, ``x3``... appended, as in DIV2K.

    Raises:
        UsageError: a file has no partner, or sizes do not fit one scale; names the file.
    """
    lows = {path.relative_to(low).with_suffix("").as_posix(): path for path in image_files(low)}
    highs = {path.relative_to(high).with_suffix("").as_posix(): path for path in image_files(high)}
    first_low, first_high = (image_size(next(iter(files.values()))) for files in (lows, highs))
    scale = max(1, round(first_high[0] / first_low[0]))
    partner = {name: name if name in lows else f"{name}x{scale}" for name in highs}
    lonely = sorted(set(partner.values()) ^ set(lows))
    if lonely:
        raise UsageError(
            f"data.root: {len(lonely)} files without a partner in {low} or {high}: {', '.join(lonely[:5])}"
        )
    ordered = [(lows[partner[name]], path) for name, path in highs.items()]
    for small, large in ordered:
        sizes = image_size(small), image_size(large)
        if any(not s * scale <= b < (s + 1) * scale for s, b in zip(*sizes, strict=True)):
            raise UsageError(
                f"data.root: {small} is {sizes[0]} and {large} {sizes[1]}; expected {scale} times its size"
            )
    return [small for small, _ in ordered], [large for _, large in ordered], scale


def _folders(root: str | None, layout: str) -> list[Path]:
    """The folders for training, validation and, where there is one, test; DIR alone if it is not divided."""
    if root is None:
        raise UsageError(f"data.root is not set; expected data.root=DIR with {layout}")
    path = Path(root).expanduser()
    if not path.is_dir():
        raise UsageError(f"data.root={root}: no such folder; expected {layout}")
    held = next((path / name for name in SPLIT_NAMES["val"] if (path / name).is_dir()), None)
    if held is None and not (path / "train").is_dir():
        return [path]
    if held is None or not (path / "train").is_dir():
        raise UsageError(f"data.root={root}: one of train/ and val/ without the other; expected {layout}")
    return [path / "train", held, *(path / name for name in ("test",) if (path / name).is_dir())]


def _split(files: Files, val: float, test: float, split: str, root: Path, folder: Path) -> list[Files]:
    """A fixed random split of all images into training, validation and test; all of them everywhere if test is 1."""
    low, high = files
    if test == 1:
        return [files] * 3
    try:
        labels = np.zeros(len(high), dtype=int)
        if split == "names":
            parts = split_by_name([file.relative_to(folder) for file in high], labels, val, test, [root.name])
        else:
            parts = stratified_split(labels, val, test, names=[root.name])
    except UsageError as error:
        raise UsageError(f"data.root={root}: {error}") from error
    return [(low and [low[i] for i in part], [high[i] for i in part]) for part in parts]


def paired_folder(
    root: str | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split: str = "names",
    **options: Any,
) -> Splits:
    """Pairs of images: DIR/low with DIR/high, or DIR/{train,val[,test]}/{low,high}.

    Files of a pair have one name (``low/a.png``, ``high/a.jpg``; DIV2K's ``low/ax2.png`` too); the scale is told by
    their sizes, and must be one for all.

    Args:
        root: DIR.
        val_fraction, test_fraction: Shares held out where DIR has no train and val folders; a test_fraction of 1 makes
            all images test images, to evaluate on.
        split: How these are chosen, see `vimzoo.data.splits.SPLITS`.
        options: Of `PairSettings`.

    Raises:
        UsageError: the folder is missing, empty or laid out otherwise, or an option does not fit.
    """
    settings = PairSettings(**options)
    check_split(split)
    folders = _folders(root, PAIRS_LAYOUT)
    for path in (folder / kind for folder in folders for kind in ("low", "high")):
        if not path.is_dir():
            raise UsageError(f"data.root={root}: no folder {path}; expected {PAIRS_LAYOUT}")
    found = [paired_files(folder / "low", folder / "high") for folder in folders]
    scales = sorted({scale for *_, scale in found})
    if len(scales) > 1:
        raise UsageError(f"data.root={root}: images of scales {scales}; expected one scale in all folders")
    parts: list[Files] = [(low, high) for low, high, _ in found]
    if len(parts) == 1:
        parts = _split(parts[0], val_fraction, test_fraction, split, folders[0], folders[0] / "high")
    data = settings.splits(str(root), parts, scales[0])
    return data.with_members(Path(str(root)).expanduser(), [high for _, high in parts])


def degraded_folder(
    root: str | None = None,
    scale: int = 1,
    sigma: float = 0.0,
    quality: int | None = None,
    rounded: bool = False,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split: str = "names",
    **options: Any,
) -> Splits:
    """Clean images in DIR, or in DIR/{train,val[,test]}, degraded as they are read.

    Args:
        root, val_fraction, test_fraction, split, options: As in `paired_folder`.
        scale, sigma, quality, rounded: What is to be undone, see `vimzoo.data.degradations.Degradation`: a
            reduction (super-resolution), noise (denoising), JPEG, or any of them together.

    Raises:
        UsageError: as there; there is nothing to undo.
    """
    settings, degradation = PairSettings(**options), Degradation(scale, sigma, quality, rounded)
    check_split(split)
    folders = _folders(root, CLEAN_LAYOUT)
    parts: list[Files] = [(None, image_files(folder)) for folder in folders]
    if len(parts) == 1:
        parts = _split(parts[0], val_fraction, test_fraction, split, folders[0], folders[0])
    data = settings.splits(str(root), parts, scale, degradation)
    return data.with_members(Path(str(root)).expanduser(), [high for _, high in parts])
