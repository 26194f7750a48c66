"""Figures of a run, none of which is worth failing for."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any


def drawn(what: str, draw: Callable[..., None], *args: Any) -> None:
    """``draw(*args)``; what cannot be drawn is a warning, because no figure is worth a run.

    Signs that matplotlib's font lacks are drawn as boxes, without a warning for each.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from")
            draw(*args)
    except Exception as error:  # a font, a memory, a library: whatever it is, the numbers are safe
        print(f"{what} is not drawn ({type(error).__name__}: {error})", file=sys.stderr, flush=True)


def printable(name: str) -> str:
    """The name of a folder as text; bytes that are no UTF-8 become the sign for such."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
