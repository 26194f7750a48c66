"""Parameters and operations of registered models, counted without computing anything."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import cache
from typing import Any

import timm
import torch

from vimzoo.models.counting import count_operations

RESULT = (720, 1280)
"""Height and width of the result that published operation counts of restoration models are for."""


@dataclass(frozen=True)
class Size:
    """Counted size of a model: parameters, operations with a multiply-add as 2, and as papers count them."""

    params: int
    flops: int
    paper_flops: int


@cache
def size_of(name: str, shape: tuple[int, ...] | None = None, **options: Any) -> Size:
    """Parameters and operations of a registered model, counted without computing anything.

    Args:
        shape: Channels, height and width of the image; None is the model's own.
        options: Of the model.
    """
    with torch.device("meta"):
        model: Any = timm.create_model(name, **options).eval()
    flops, paper_flops = count_operations(model, shape or model.pretrained_cfg["input_size"])
    return Size(sum(p.numel() for p in model.parameters()), flops, paper_flops)


@cache
def _published_shape(name: str, scale: int, channels: int) -> tuple[int, int, int]:
    """The shape of an image whose result has at least `RESULT`'s pixels, with sides that the model takes."""
    with torch.device("meta"):
        multiple = getattr(timm.create_model(name), "multiple_of", 1)
    step = scale * multiple
    height, width = (-(-side // step) * multiple for side in RESULT)
    return channels, height, width


@cache
def restoration_size(name: str, scale: int, channels: int, depths: tuple[int, ...] | None) -> Size:
    """The size of a restoration model on an image whose result has `RESULT`'s pixels.

    Args:
        name: Registered name.
        scale: Output pixels per input pixel and axis.
        channels: Channels of the images.
        depths: Blocks per group, if all blocks are alike, and so are all groups: networks of one and of two are
            counted, which takes seconds rather than minutes for all models. None counts the network itself.
    """
    shape = _published_shape(name, scale, channels)
    if depths is None:
        return size_of(name, shape)
    groups, blocks = len(depths), sum(depths)
    counts = (astuple(size_of(name, shape, depths=few)) for few in ((1,), (2,), (1, 1)))
    return Size(
        *(
            one + (groups - 1) * (grouped - one) + (blocks - groups) * (two - one)
            for one, two, grouped in zip(*counts, strict=True)
        )
    )
