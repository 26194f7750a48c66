"""Data sets of Hugging Face's ``datasets`` library, through timm's reader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.data.readers import create_reader

from .reading import ReadImages, image_mode, prepared
from .splits import Splits, UsageError


def hub_dataset(
    name: str | None = None,
    train_split: str = "train",
    val_split: str = "validation",
    test_split: str | None = None,
    cache: str | None = None,
    img_size: int | None = None,
    in_chans: int = 3,
    max_unreadable: float = 0.01,
    *,
    aug: Mapping[str, Any] | None = None,
    seed: int = 0,
    pretrained_cfg: Mapping[str, Any] | None = None,
) -> Splits:
    """A data set by its name on the hub, or the folder of one, with columns ``image`` and ``label``.

    Args:
        name: what ``datasets.load_dataset`` takes.
        train_split, val_split, test_split: names of its splits; slices such as ``train[:90%]`` work.
        cache: folder for downloads; None is the library's own.
        Others as for ``image_folder``.

    Raises:
        UsageError: the library is not installed, or refuses the name or a split.
    """
    if name is None:
        raise UsageError("data.name is not set; expected the name or folder of a data set of the hub")
    mode = image_mode(in_chans)
    try:
        parts = [
            None
            if split is None
            else ReadImages(create_reader(f"hfds/{name}", root=cache, split=split), mode)
            for split in (train_split, val_split, test_split)
        ]
    except ImportError as error:
        raise UsageError(
            f"data=hub: pip install 'vimzoo[datasets]' brings what it needs ({error})"
        ) from error
    except (ValueError, OSError, KeyError) as error:
        raise UsageError(f"data.name={name}: {str(error).splitlines()[0]}") from error
    train = parts[0]
    assert train is not None
    numbers: dict[str, int] = train.reader.class_to_idx
    return prepared(
        name, (parts[0], parts[1], parts[2]), tuple(sorted(numbers, key=numbers.__getitem__)), img_size, in_chans,
        aug, seed, pretrained_cfg, max_unreadable,
    )  # fmt: skip
