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
    """

    name: str
    load: Callable[..., Splits]

    def defaults(self) -> dict[str, Any]:
        """The arguments that ``load`` names, with their defaults; None where there is none."""
        parameters = inspect.signature(self.load).parameters.values()
        return {
            parameter.name: None if parameter.default is parameter.empty else parameter.default
            for parameter in parameters
            if parameter.kind is not parameter.VAR_KEYWORD and parameter.name not in GIVEN
        }
