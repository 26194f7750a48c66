"""A kind of data: the record that each module of `vimzoo.data.sources` defines."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .splits import Splits

GIVEN = ("aug", "seed", "pretrained_cfg")


@dataclass(frozen=True)
class Source:
    """A kind of data, which ``SOURCES`` lists by name.

    Attributes:
        name: Its name.
        load: Keyword arguments -> the data set. It is also given ``aug`` (a mapping: how training images are
            augmented), ``seed`` (an integer, of the augmentation) and ``pretrained_cfg`` (timm's description of the
            model: its image size and normalisation). It raises `UsageError`, with arguments in backquotes.
        options: The class whose arguments ``load`` takes as ``**options``, if it does.
        targets: What the images come with: ``classes``, ``masks``, ``images``, or as another task has it.
    """

    name: str
    load: Callable[..., Splits]
    options: Callable[..., Any] | None = None
    targets: str = "classes"

    def defaults(self) -> dict[str, Any]:
        """The arguments that ``load`` takes, with their defaults; None where there is none."""
        functions = [self.load] if self.options is None else [self.load, self.options]
        own = (p for function in functions for p in inspect.signature(function).parameters.values())
        found: dict[str, Any] = {}
        for parameter in own:
            if parameter.kind is not parameter.VAR_KEYWORD and parameter.name not in GIVEN:
                default = None if parameter.default is parameter.empty else parameter.default
                found.setdefault(parameter.name, default)
        return found
