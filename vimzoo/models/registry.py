"""The registry of model families and of the facts about their models.

The registry fills itself: every folder beside this file with a ``FAMILY`` is a family. `register` adds one from
elsewhere.
"""

from typing import Any

from torch import nn

from vimzoo.errors import UsageError, similar
from vimzoo.records import records

from .facts import Facts
from .family import Family

__all__ = ["FAMILIES", "configurations", "family_of", "find_facts", "known_facts", "register"]

FAMILIES: dict[str, Family] = {}
"""Families by name, classifiers first."""


def register(family: Family) -> None:
    """Add a family.

    Raises:
        ValueError: one of its models' names is another family's.
    """
    taken = {
        name: other.name for other in FAMILIES.values() if other.name != family.name for name in other.facts
    }
    if doubled := [name for name in family.facts if name in taken]:
        raise ValueError(f"{family.name}: the name {doubled[0]} is taken by a model of {taken[doubled[0]]}")
    found = [*(other for other in FAMILIES.values() if other.name != family.name), family]
    FAMILIES.clear()
    FAMILIES.update({other.name: other for other in sorted(found, key=lambda f: (f.task, f.name.lower()))})


def discover() -> None:
    """Register the family of every folder of `vimzoo.models` that defines one."""
    for family in records("vimzoo.models", "FAMILY", folders=True):
        register(family)


def known_facts(task: str | None = None) -> dict[str, Facts]:
    """Facts by registered name, of all models or those of a task; see `vimzoo.models.family.Family.task`."""
    families = (family for family in FAMILIES.values() if task in (None, family.task))
    return {name: facts for family in families for name, facts in family.facts.items()}


def find_facts(name: str, task: str | None = None, argument: str = "") -> tuple[Facts, str]:
    """The facts of a registered model, and the tag in its name or the model's first one.

    Args:
        name: Registered name, with or without a tag.
        task: Consider only models of this task.
        argument: Stands before the name in messages.

    Raises:
        UsageError: there is no such model or tag; the message lists similar names.
    """
    architecture, _, tag = name.partition(".")
    facts = known_facts(task).get(architecture)
    if facts is None:
        kind, known = f"{task} model" if task else "model", known_facts(task)
        hint = similar(architecture, known, f"expected one of {', '.join(known)}")
        raise UsageError(f"{argument}{name}: no such {kind}; {hint}")
    if tag and tag not in facts.tags:
        tagged = ", ".join(facts.tagged(other) for other in facts.tags)
        raise UsageError(f"{argument}{name}: no such weights are known; expected {tagged}")
    return facts, tag or facts.tags[0]


def family_of(model: nn.Module | str) -> Family | None:
    """The family of a registered name, with or without a tag, or of a model, block or layer.

    A module belongs to the family of the outermost part that a dialect has names for; if several have, because a
    family's layers inherit from another's, of the one that names the most derived class. None: not of this package.
    """
    if isinstance(model, str):
        name = model.partition(".")[0]
        return next((family for family in FAMILIES.values() if name in family.facts), None)
    kinds = [(family, kind) for family in FAMILIES.values() for kind in family.dialect.modules]
    for part in model.modules():
        if found := [(family, kind) for family, kind in kinds if isinstance(part, kind)]:
            return max(found, key=lambda pair: len(pair[1].__mro__))[0]
    return None


def configurations() -> dict[str, dict[str, Any]]:
    """The trainer's configuration group ``model``: default settings by registered name."""
    return {name: facts.configuration() for name, facts in known_facts().items()}


discover()
