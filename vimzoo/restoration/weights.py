"""Models by name with their authors' weights, or a reason why not."""

import difflib
from typing import cast

import timm

from vimzoo.models import CheckpointError
from vimzoo.models.mambair.facts import HUB, MAMBAIR_FACTS
from vimzoo.models.restoration_base import RestorationModel

__all__ = ["names_with_weights", "restoration_model"]


def names_with_weights() -> list[str]:
    """Restoration models whose weights, some or all, have a known address."""
    return [facts.name for facts in MAMBAIR_FACTS.values() if facts.files]


def restoration_model(name: str) -> RestorationModel:
    """A registered restoration model with its authors' weights, from the hub or its cache.

    Args:
        name: Registered name, with a tag (``mambair_dn.sigma25``) or without for the first one.

    Raises:
        ValueError: there is no such restoration model, no known address of its weights, or it cannot be reached.
    """
    architecture, _, tag = name.partition(".")
    if architecture not in MAMBAIR_FACTS:
        close = difflib.get_close_matches(architecture, MAMBAIR_FACTS) or list(MAMBAIR_FACTS)
        raise ValueError(f"{name}: no restoration model of this name; there are {', '.join(close)}")
    facts = MAMBAIR_FACTS[architecture]
    if tag and tag not in facts.tags:
        raise ValueError(f"{name}: no weights of this name; there are {_joined(architecture, facts.tags)}")
    if (tag or facts.tags[0]) not in facts.files:
        raise ValueError(
            f"{name}: no address of its weights is known; give the file itself as a checkpoint, or take one of "
            f"{', '.join(names_with_weights())}"
        )
    try:
        return cast(RestorationModel, timm.create_model(name, pretrained=True))
    except CheckpointError:
        raise
    except Exception as error:  # whatever the network, the hub and its cache raise
        raise ValueError(
            f"{name}: its weights ({facts.files[tag or facts.tags[0]]} of {HUB} on the hub) cannot be reached: "
            f"{_first_line(error)}; give the file itself as a checkpoint"
        ) from error


def _joined(architecture: str, tags: tuple[str, ...]) -> str:
    return ", ".join(f"{architecture}.{tag}" for tag in tags if tag) or f"{architecture} alone"


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
