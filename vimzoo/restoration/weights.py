"""Restoration models by name, folder or file."""

from pathlib import Path

import timm

from vimzoo.errors import UsageError
from vimzoo.models.inputs import ModelWithInputs
from vimzoo.models.opening import FILE_HINT, open_model
from vimzoo.models.registry import find_facts, known_facts
from vimzoo.models.restoration_base import RestorationModel

__all__ = ["names_with_weights", "restoration_model"]


def names_with_weights() -> list[str]:
    """Restoration models with at least one downloadable file of weights."""
    return [
        name
        for name, facts in known_facts("restoration").items()
        if any(facts.weights(tag) for tag in facts.tags)
    ]


def restoration_model(
    name: str | None, checkpoint: str | Path | None = None, *, use_ema: bool | None = None
) -> RestorationModel:
    """A restoration model, as `vimzoo.models.opening.open_model` opens it.

    Args:
        name: Registered name, with a tag (``mambair_dn.sigma25``) or without for the first one, a folder, or an address
            on the hub; with its published weights, from the hub or its cache.
        checkpoint: A file of weights instead. Without a name the architecture is inferred from it.
        use_ema: Use the file's moving average of the weights, or the trained weights; None: see `read_checkpoint`.

    Raises:
        UsageError: there is no such restoration model, or its weights are not available.
    """
    if name and timm.is_model(name):
        find_facts(name, "restoration", "--model ")
    hint = f"{FILE_HINT}; published are those of {', '.join(names_with_weights())}"
    model = open_model(name, checkpoint, use_ema=use_ema, hint=hint)
    if not isinstance(model, RestorationModel):
        more = (
            "; it takes two pictures, the second one by --with" if isinstance(model, ModelWithInputs) else ""
        )
        raise UsageError(f"{name}: expected a restoration model, got {type(model).__name__}{more}")
    return model
