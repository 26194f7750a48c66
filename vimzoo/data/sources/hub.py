"""Data sets of Hugging Face's ``datasets`` library, through timm's reader."""

from __future__ import annotations

from typing import Any

from timm.data.readers import create_reader

from vimzoo.errors import UsageError, first_line

from ..images.classes import listed
from ..images.reading import ImageSettings, ReadImages
from ..record import Source
from ..splits import Splits


def hub_dataset(
    name: str | None = None,
    train_split: str = "train",
    val_split: str = "validation",
    test_split: str | None = None,
    cache: str | None = None,
    **options: Any,
) -> Splits:
    """A data set of the hub, or a local copy of one, with columns ``image`` and ``label``.

    Args:
        name: what ``datasets.load_dataset`` takes.
        train_split, val_split, test_split: names of its splits; slices such as ``train[:90%]`` work.
        cache: folder for downloads; None is the library's own.
        options: of `ImageSettings`.

    Raises:
        UsageError: the library is not installed, or refuses the name or a split.
    """
    if name is None:
        raise UsageError("`name` is not set; expected the name or folder of a data set of the hub")
    settings = ImageSettings(**options)

    def read(split: str) -> ReadImages:
        return ReadImages(create_reader(f"hfds/{name}", root=cache, split=split))

    try:
        train, val, test = read(train_split), read(val_split), read(test_split) if test_split else None
    except ImportError as error:
        raise UsageError(
            f"data sets of the hub need a package; install it with: pip install 'vimzoo[datasets]' ({error})"
        ) from error
    except (ValueError, OSError, KeyError) as error:
        raise UsageError(f"`name`={name}: {first_line(error)}") from error
    classes = _names(train)
    for part in (val, test):
        if part is not None and (other := _names(part)) != classes:
            raise UsageError(
                f"`name`={name}: training has {listed(classes)}, a held-out split {listed(other)}"
            )
    return settings.splits(name, train, val, test, classes)


def _names(images: ReadImages) -> list[str]:
    """Class names by number."""
    numbers: dict[str, int] = images.reader.class_to_idx
    return sorted(numbers, key=numbers.__getitem__)


SOURCE = Source("hub", hub_dataset, ImageSettings)
