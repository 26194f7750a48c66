"""Opens the model to export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from torch import nn

from vimzoo.models.opening import FILE_HINT, find_model, open_model

from .check import options_of


def build(
    name: str, checkpoint: str | Path | None, random: bool, size: tuple[int, int] | str | None
) -> nn.Module:
    """The model to be written, in evaluation mode, with the settings that its class asks for.

    Args:
        name: As `vimzoo.models.opening.find_model` takes it.
        checkpoint: A file of weights; without it the published ones.
        random: Initial weights instead.
        size: ``"dynamic"``, height and width, or None for the model's own.

    Raises:
        UsageError: no such model, weights that cannot be had, or a size that it does not take.
    """
    found = find_model(name, "MODEL")
    cfg = timm.get_pretrained_cfg(found.name) if found.name else None
    options: dict[str, Any] = {}
    if cfg is not None and cfg.fixed_input_size and size is not None:
        options |= {"dynamic_img_size": True} if size == "dynamic" else {"img_size": size}
    hint = f"{FILE_HINT}, --random initial ones"
    model = open_model(name, checkpoint, random=random, argument="MODEL", hint=hint, **options)
    for setting, value in options_of(model).settings.items():
        setattr(model, setting, value)
    return model
