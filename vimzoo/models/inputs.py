"""What a model takes: its inputs by name, with their shapes."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from .staged import checkpoint_filter_fn
from .weights.dialect import Dialect
from .weights.loading import build_model, load_into

__all__ = [
    "Input",
    "ModelWithInputs",
    "build_with_inputs",
    "input_names",
    "input_shapes",
    "inputs_of",
    "own_size",
]


class Input(NamedTuple):
    """One input of a model, without the axis of the batch.

    Attributes:
        first: Sizes of the axes before height and width.
        scale: Its height and width as multiples of those of the model's first input; 0: it has neither.
    """

    first: tuple[int, ...]
    scale: int = 1

    def shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Its shape where the first input has this height and width."""
        return (*self.first, *(self.scale * side for side in size)) if self.scale else self.first


class ModelWithInputs(nn.Module):
    """Base of networks that take something else than one image or clip.

    Attributes:
        num_classes: 0, as timm calls it.
        num_features: Channels before the last layer.
        dialect: The authors' names and ours.
        inputs: By name, in the order of ``forward``'s arguments.
    """

    num_classes = 0
    num_features: int
    dialect: ClassVar[Dialect]
    inputs: Mapping[str, Input]

    @torch.jit.ignore
    def load_pretrained(
        self, checkpoint_path: str | os.PathLike[str], prefix: str = "", *, use_ema: bool | None = None
    ) -> None:
        """Load a file of ours or the authors', as `vimzoo.models.weights.loading.load_into` does, with its errors."""
        load_into(self, checkpoint_path, checkpoint_filter_fn, use_ema=use_ema, prefix=prefix)


def build_with_inputs(kind: type[ModelWithInputs], variant: str, pretrained: bool, **options: Any) -> Any:
    """`vimzoo.models.weights.loading.build_model` for the entrypoints of a `ModelWithInputs`, with its errors.

    Args:
        kind: The class.
        variant: The registered name.
        pretrained: Whether to load weights.
        **options: Of the class, and those of `build_model`.

    Raises:
        TypeError: classes are asked for.
    """
    if options.get("num_classes"):
        raise TypeError(f"num_classes={options['num_classes']}: {kind.__name__} has no classes")
    known = inspect.signature(kind).parameters
    unused = tuple(name for name in ("num_classes", "global_pool", "in_chans") if name not in known)
    return build_model(kind, variant, pretrained, checkpoint_filter_fn, kwargs_filter=unused, **options)


def inputs_of(model: Any) -> Mapping[str, Input]:
    """The inputs of a model: its own record of them, or else one of images or clips.

    Args:
        model: A `ModelWithInputs`, or one with timm's ``pretrained_cfg``.
    """
    if isinstance(model, ModelWithInputs):
        return model.inputs
    channels, frames = model.pretrained_cfg["input_size"][0], getattr(model, "num_frames", None)
    return {"images": Input((channels,) if frames is None else (channels, frames))}


def input_names(model: Any) -> tuple[str, ...]:
    """The names of a model's inputs, also of a network without timm's ``pretrained_cfg``."""
    return tuple(model.inputs) if isinstance(model, ModelWithInputs) else ("images",)


def input_shapes(model: Any, size: tuple[int, ...] | None = None) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs by name, without the axis of the batch.

    Args:
        model: As for `inputs_of`.
        size: Height and width of the first; by default the model's own.
    """
    return {name: each.shape(size or own_size(model)) for name, each in inputs_of(model).items()}


def own_size(model: Any) -> tuple[int, ...]:
    """Height and width of a model's images as registered."""
    return tuple(model.pretrained_cfg["input_size"][1:])
