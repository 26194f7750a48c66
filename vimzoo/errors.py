"""Errors that a user can fix, and their messages. Imports nothing from this package."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable

import torch

_OUT_OF_MEMORY = re.compile(
    r"out of memory|(can't|cannot) allocate memory|not enough memory"
    r"|could not create a (primitive|memory)",  # oneDNN's words for it
    re.IGNORECASE,
)


class UsageError(ValueError):
    """An invalid request; the message names the argument, the value found and the value expected.

    A command prints it and exits with status 2. Code that does not know how its user gives an argument (`vimzoo.data`)
    writes its name in backquotes, so that a caller can put another one in its place.
    """

    def renamed(self, name: Callable[[str], str | None]) -> UsageError:
        """The same error with other names for its arguments.

        Args:
            name: The argument's name, as it stands in backquotes -> what to write instead; None leaves it as it is.
        """
        return UsageError(re.sub(r"`(\w+)`", lambda match: name(match[1]) or match[0], str(self)))


class Failure(RuntimeError):
    """Work that started and failed; a command prints the message and exits with status 1."""


def first_line(error: BaseException, *, kind: bool = False) -> str:
    """The first line of an error's message, or its type if it has none.

    Args:
        error: Of any library; messages of several lines are common.
        kind: Whether to begin with the type, as in ``ValueError: ...``.
    """
    lines = str(error).strip().splitlines()
    name = type(error).__name__
    if not lines:
        return name
    return f"{name}: {lines[0]}" if kind else lines[0]


def similar(name: str, known: Iterable[str], otherwise: str = "none", count: int = 4) -> str:
    """The names most similar to a misspelt one, for the end of a message: ``similar names: vim_tiny_patch16_224, ...``.

    Args:
        name: What was given.
        known: The valid names.
        otherwise: The text if no name is similar.
        count: Maximum number of names.
    """

    def likeness(other: str) -> float:
        """Also of its beginning alone: names of models end in sizes that people leave out."""
        return max(
            difflib.SequenceMatcher(None, name, part).ratio() for part in (other, other[: len(name) + 1])
        )

    scores = {other: likeness(other) for other in known}
    found = [
        other
        for other in sorted(scores, key=lambda other: (-scores[other], len(other)))
        if scores[other] >= 0.6
    ][:count]
    return f"similar names: {', '.join(found)}" if found else otherwise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, on any device; torch has no type for it on the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
