"""Parameters and operations of registered models, counted without computing anything."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import cache
from typing import Any

import timm
import torch
from torch.overrides import TorchFunctionMode

from vimzoo.models.counting import count_operations
from vimzoo.models.inputs import input_shapes

RESULT = (720, 1280)
"""Height and width of the result that published operation counts of restoration models are for."""


@dataclass(frozen=True)
class Size:
    """Counted size of a model: parameters, operations with a multiply-add as 2, and as papers count them."""

    params: int
    flops: int
    paper_flops: int


class _NoValues(TorchFunctionMode):
    """Tensors without data, left as they are by what would fill them: initialisation takes half of the time."""

    FILLING = frozenset(
        getattr(torch.Tensor, name)
        for name in ("normal_", "uniform_", "clamp_", "erfinv_", "mul_", "add_", "fill_", "zero_", "copy_")
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.FILLING and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def without_values(name: str, **options: Any) -> Any:
    """A registered model on the device ``meta``, in evaluation mode."""
    with torch.device("meta"), _NoValues():
        return timm.create_model(name, **options).eval()


@cache
def size_of(name: str, shape: tuple[int, ...] | None = None, **options: Any) -> Size:
    """Parameters and operations of a registered model, counted without computing anything.

    Args:
        shape: Channels, height and width of the image; None is the model's own.
        options: Of the model.
    """
    model = without_values(name, **options)
    flops, paper_flops = count_operations(model, *([shape] if shape else input_shapes(model).values()))
    return Size(sum(p.numel() for p in model.parameters()), flops, paper_flops)


@cache
def clip_size(name: str, depth: int) -> Size:
    """The size of a model of clips, all of whose blocks are alike: those of one block and of two are counted."""
    one, two = (astuple(size_of(name, depth=count)) for count in (1, 2))
    return Size(*(first + (depth - 1) * (second - first) for first, second in zip(one, two, strict=True)))


@cache
def _published_shape(name: str, scale: int, channels: int, **options: Any) -> tuple[int, int, int]:
    """The shape of an image whose result has at least `RESULT`'s pixels, with sides that the model takes."""
    multiple = getattr(without_values(name, **options), "multiple_of", 1)
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
    shape = _published_shape(name, scale, channels, **({} if depths is None else {"depths": (1,)}))
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
