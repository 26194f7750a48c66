"""Errors of `vimzoo.data`, which names arguments, in terms of the settings that these arguments come from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from vimzoo.errors import UsageError

# Arguments that come from a setting of another name than `data.ARGUMENT`, or of another group
SETTINGS = {
    "None": "null",
    "aug": "aug.transform",
    "limit": "run.limit_batches",
    "seed": "run.seed",
    "world": "devices",
}


@contextlib.contextmanager
def naming_settings(cfg: Mapping[str, Any]) -> Iterator[None]:
    """Let errors of the block say ``data.root`` where `vimzoo.data` says ```root```.

    Args:
        cfg: The configuration; the keys of its group ``data`` are the arguments.
    """
    try:
        yield
    except UsageError as error:
        renamed = error.renamed(
            lambda name: SETTINGS.get(name) or (f"data.{name}" if name in cfg["data"] else None)
        )
        if str(renamed) == str(error):
            raise
        raise renamed from error
