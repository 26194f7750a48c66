"""Finished parts of a film, which a run that was killed leaves for the next one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vimzoo.errors import UsageError
from vimzoo.files import remove, sync_folder, whole_file

__all__ = ["Segments"]

_NOTE = "film.json"


class Segments:
    """The folder of parts beside a result, ``.NAME.parts``: one file per ``first-stop`` range of frames.

    Args:
        target: The result.
        origin: What determines the frames: film, weights, options. It is recorded in the folder.
        overwrite: Discard the parts of another origin.

    Raises:
        UsageError: the folder holds parts of another origin, or cannot be written.
    """

    def __init__(self, target: Path, origin: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.folder = target.absolute().with_name(f".{target.name}.parts")
        self.suffix = target.suffix.lower()
        own = json.loads(json.dumps(dict(origin)))
        if (other := self._difference(own)) is not None:
            if not overwrite:
                raise UsageError(
                    f"{self.folder}: holds parts of an interrupted run with other {other}; expected the same "
                    "command, or --existing overwrite"
                )
            remove(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(self.folder / _NOTE, "w") as file:
                file.write(json.dumps(own) + "\n")
        except OSError as error:
            raise UsageError(f"{self.folder}: cannot be written ({error.strerror})") from error
        for leftover in self.folder.glob("*.open"):
            remove(leftover)

    def _difference(self, own: dict[str, Any]) -> str | None:
        """What the existing parts were made with that is not ``own``, by name; None if they can be used."""
        if not any(self.folder.glob("*-*.*")):
            return None
        try:
            theirs = dict(json.loads((self.folder / _NOTE).read_text()))
        except (OSError, ValueError, TypeError):
            return "settings, which are not recorded"
        return ", ".join(sorted(name for name in own | theirs if theirs.get(name) != own.get(name))) or None

    def finished(self, start: int) -> list[Path]:
        """The finished parts from frame ``start`` on without a gap, in order."""
        found = {}
        for path in self.folder.glob(f"*-*{self.suffix}"):
            first, _, stop = path.stem.partition("-")
            found[int(first)] = (int(stop), path)
        parts = []
        while start in found:
            start, path = found[start]
            parts.append(path)
        return parts

    def done(self, start: int) -> int:
        """The first frame from ``start`` on that is in no finished part."""
        parts = self.finished(start)
        return int(parts[-1].stem.partition("-")[2]) if parts else start

    @property
    def unfinished(self) -> Path:
        """Where the next part is written."""
        return self.folder / "next.open"

    def finish(self, first: int, stop: int) -> None:
        """The unfinished part is closed, and holds frames ``first`` to ``stop - 1``."""
        with self.unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        self.unfinished.replace(self.folder / f"{first:08d}-{stop:08d}{self.suffix}")
        sync_folder(self.folder)

    def discard(self) -> None:
        """Remove the folder, when the result is complete."""
        remove(self.folder)
