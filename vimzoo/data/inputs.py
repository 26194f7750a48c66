"""What a classifier takes, read from files without labels: images, or views of films."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from vimzoo.errors import UsageError

from .images.decode import MODES, read_image
from .sources.clips import require_films


class Inputs(NamedTuple):
    """How a model's inputs are read.

    Attributes:
        read: A file's name -> its views, (views, C, H, W) or (views, C, T, H, W).
        views: Number of them.
    """

    read: Callable[[str], Tensor]
    views: int


def clip_frames(model: nn.Module) -> int | None:
    """Frames of the clips that a model takes; None for a model of images."""
    return getattr(model, "num_frames", None)


def model_inputs(
    model: nn.Module,
    upright: bool = True,
    opened: Callable[[str], Any] = str,
    views: tuple[int, int] = (1, 1),
) -> Inputs:
    """How files are prepared as a model's weights require.

    Args:
        model: A classifier, of images or of clips.
        upright: Turn photographs by their EXIF orientation.
        opened: An image file's name -> what `read_image` reads.
        views: Clips and crops of each that a film is seen in.

    Raises:
        UsageError: a model of clips lacks PyAV, or takes another number of channels than films have.
    """
    settings = resolve_model_data_config(model)
    channels = settings["input_size"][0]
    if (frames := clip_frames(model)) is None:
        transform: Any = create_transform(**settings, is_training=False)
        mode = MODES.get(channels, "RGB")
        return Inputs(lambda file: transform(read_image(opened(file), mode, upright))[None], 1)
    require_films()
    from .clips.reading import ClipSettings, views_of

    if channels != 3:
        raise UsageError(f"{type(model).__name__} takes clips of {channels} channels; films have 3")
    asked = ClipSettings(frames, settings["input_size"][-1], settings["mean"], settings["std"], views)
    return Inputs(lambda file: views_of(Path(file), asked), math.prod(views))
