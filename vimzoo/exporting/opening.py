"""Opens the model to export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import timm
from torch import nn

from vimzoo.errors import UsageError
from vimzoo.models.opening import FILE_HINT, find_model, open_model
from vimzoo.models.routes import routable

from .check import options_of


def build(
    name: str,
    checkpoint: str | Path | None,
    random: bool,
    size: tuple[int, int] | str | None,
    routing: str | None = None,
) -> nn.Module:
    """The model to be written, in evaluation mode, with the settings that its class asks for.

    Args:
        name: As `vimzoo.models.opening.find_model` takes it.
        checkpoint: A file of weights; without it the published ones.
        random: Initial weights instead.
        size: ``"dynamic"``, height and width, or None for the model's own.
        routing: As in `vimzoo.exporting.export`.

    Raises:
        UsageError: no such model, weights that are not available, or a size or routing that it does not take.
    """
    found = find_model(name, "MODEL")
    cfg = timm.get_pretrained_cfg(found.name) if found.name else None
    options: dict[str, Any] = {}
    if cfg is not None and cfg.fixed_input_size and size is not None:
        options |= {"dynamic_img_size": True} if size == "dynamic" else {"img_size": size}
    hint = f"{FILE_HINT}, --random initial ones"
    model: Any = open_model(name, checkpoint, random=random, argument="MODEL", hint=hint, **options)
    if routing is not None:
        try:
            routable(model, routing, "--routing").routing = routing
        except ValueError as error:
            raise UsageError(str(error)) from error
    for setting, value in options_of(model).settings.items():
        old = getattr(model, setting)
        if setting == "routing" and routing not in (None, value):
            raise UsageError(f"--routing {routing}: a file cannot draw at random; expected {value}")
        if old != value:
            print(f"{name}: written with {setting}={value!r}; its weights are for {old!r}", file=sys.stderr)
        setattr(model, setting, value)
    return model
