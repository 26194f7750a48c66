"""Restoration models by name with their authors' weights, or the reason why there are none."""

from typing import cast

import timm

from vimzoo.models import CheckpointError
from vimzoo.models.registry import find_facts, known_facts
from vimzoo.models.restoration_base import RestorationModel

__all__ = ["names_with_weights", "restoration_model"]


def names_with_weights() -> list[str]:
    """Restoration models for which at least one file of weights has a known address."""
    return [
        name
        for name, facts in known_facts("restoration").items()
        if any(facts.weights(t) for t in facts.tags)
    ]


def restoration_model(name: str) -> RestorationModel:
    """A registered restoration model with its authors' weights, from the hub or its cache.

    Args:
        name: Registered name, with a tag (``mambair_dn.sigma25``) or without for the first one.

    Raises:
        ValueError: there is no such restoration model, no known address of its weights, or the address cannot be
            reached.
    """
    facts, tag = find_facts(name, "restoration")
    weights = facts.weights(tag)
    if not weights:
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
            f"{name}: its weights ({' of '.join(reversed(weights.values()))}) cannot be reached: "
            f"{_first_line(error)}; give the file itself as a checkpoint"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
