"""Finished parts of a film, which a run that was killed leaves for the next one."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
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
    """

    def __init__(self, target: Path) -> None:
        self.folder = target.absolute().with_name(f".{target.name}.parts")
        self.suffix = target.suffix.lower()

    def claim(self, origin: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Create the folder, and record in it what determines the frames.

        Args:
            origin: Film, weights, options.
            overwrite: Discard the parts of another origin.

        Raises:
            UsageError: the folder holds parts of another origin, or cannot be written.
        """
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

    def _all(self) -> Iterator[tuple[int, int, Path]]:
        for path in self.folder.glob(f"*-*{self.suffix}"):
            first, _, stop = path.stem.partition("-")
            yield int(first), int(stop), path

    def finished(self, start: int) -> list[Path]:
        """The finished parts from frame ``start`` on without a gap, in order."""
        found = {first: (stop, path) for first, stop, path in self._all()}
        parts = []
        while start in found:
            start, path = found[start]
            parts.append(path)
        return parts

    def count(self) -> int:
        """The number of frames in finished parts."""
        return sum(stop - first for first, stop, _ in self._all())

    def done(self, start: int) -> int:
        """The first frame from ``start`` on that is in no finished part."""
        parts = self.finished(start)
        return int(parts[-1].stem.partition("-")[2]) if parts else start

    def missing(
        self, start: int, total: int, length: int, stop: int | None
    ) -> Iterator[tuple[int, int | None]]:
        """The ranges of ``length`` frames from ``start`` on that are in no finished part.

        Args:
            total: The number of frames, an estimate; the last range ends at ``stop``, None being the end of the film.
        """
        found = {first: last for first, last, _ in self._all()}
        gaps: list[int] = []
        while start < total or not gaps:
            if start in found:
                start = found[start]
            else:
                gaps.append(start)
                start += length
        for first, following in itertools.zip_longest(gaps, gaps[1:]):
            yield first, stop if following is None else first + length

    def unfinished(self, first: int) -> Path:
        """Where the part that begins with frame ``first`` is written."""
        return self.folder / f"{first:08d}.open"

    def finish(self, first: int, stop: int) -> None:
        """The unfinished part from frame ``first`` on is closed, and ends with frame ``stop - 1``."""
        with self.unfinished(first).open("rb+") as file:
            os.fsync(file.fileno())
        self.unfinished(first).replace(self.folder / f"{first:08d}-{stop:08d}{self.suffix}")
        sync_folder(self.folder)

    def discard(self) -> None:
        """Remove the folder, when the result is complete."""
        remove(self.folder)
