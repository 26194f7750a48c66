"""Restores pictures below a URL or folder, read and written through fsspec."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

from vimzoo.data.images.files import hidden
from vimzoo.data.images.remote import Remote
from vimzoo.pictures.formats import SUFFIXES
from vimzoo.pictures.picture import Picture
from vimzoo.pictures.writing import encoded

from .folders import Job, result_name
from .origin import NOTE, identity, refuse_others
from .restorer import Restorer
from .stream import WRITERS, Options, restored_stream

__all__ = ["UrlFolder"]


@dataclass(frozen=True)
class UrlFolder:
    """Pictures, and the folder of their results.

    Attributes:
        source, target: Folders, or URLs of fsspec.
        suffix: Format of the results, such as ``".png"``; None: as in `find_jobs`.
    """

    source: str
    target: str
    suffix: str | None = None

    def find(self) -> tuple[list[str], Counter[str]]:
        """Names of the pictures, sorted, and the number of other files by suffix.

        Raises:
            ValueError: there are no pictures, two would become one file, or results would replace pictures.
        """
        own, results = self.source.rstrip("/") + "/", self.target.rstrip("/") + "/"
        if own == results:
            raise ValueError(f"{self.target}: the results would replace the pictures; choose another folder")
        names, others = _pictures(Remote(self.source))
        if results.startswith(own):
            names = [name for name in names if not name.startswith(results.removeprefix(own))]
        if not names:
            raise ValueError(
                f"{self.source}: no pictures in it; expected files ending in {', '.join(SUFFIXES)}"
            )
        first: dict[str, str] = {}
        for name in names:
            if (other := first.setdefault(self.result(name), name)) != name:
                raise ValueError(f"{other} and {name} would both become {self.result(name)}")
        return names, others

    def done(self, names: Sequence[str]) -> list[str]:
        """Those whose results exist."""
        try:
            there = set(Remote(self.target).walk()[0])
        except FileNotFoundError:
            return []
        return [name for name in names if self.result(name) in there]

    def result(self, name: str) -> str:
        """The name of a picture's result."""
        path = PurePosixPath(name)
        return str(path.with_name(result_name(Path(name), self.suffix)))

    def claim(self, restorer: Restorer, skipped: bool) -> None:
        """`claim_results` for a URL.

        Raises:
            ValueError: as there.
        """
        own, target = identity(restorer), Remote(self.target)
        if skipped:
            try:
                (note,) = target.read([(NOTE, None, None)])
                theirs = dict(json.loads(note))
            except (FileNotFoundError, ValueError, TypeError):
                theirs = None
            refuse_others(self.target, own, theirs)
        target.write(NOTE, json.dumps(own).encode() + b"\n")

    def restore(self, names: list[str], restorer: Restorer, options: Options) -> list[str]:
        """Restore pictures; gives the reason why each failed, empty if it is restored."""
        jobs = [(Job(Path(name), Path(self.result(name))), 0) for name in names]
        disk = _Urls(Remote(self.source), Remote(self.target))
        answers = dict(restored_stream(enumerate(jobs), restorer, options, disk, _NO_BAR, set()))
        return [answers[index] or "" for index in range(len(names))]


_NO_BAR = SimpleNamespace(update=lambda count: None, set_postfix_str=lambda text, refresh: None)


@dataclass(frozen=True)
class _Urls:
    source: Remote
    target: Remote
    taken: dict[Job, bytes] = field(default_factory=dict)

    def opened(self, job: Job) -> io.BytesIO:
        (content,) = self.source.read([(job.source.as_posix(), None, None)])
        return io.BytesIO(content)

    def check(self, job: Job) -> None:
        """Nothing: a server tells when it is asked to write."""

    def write(self, picture: Picture, job: Job, quality: int) -> None:
        self.target.write(job.target.as_posix(), encoded(picture, job.target, quality))

    def store(self, content: bytes, job: Job) -> None:
        self.taken[job] = content

    def commit(self, jobs: Sequence[Job]) -> list[Exception | None]:
        """What a server has taken is durable."""
        with ThreadPoolExecutor(WRITERS) as pool:
            return list(pool.map(self._sent, jobs))

    def _sent(self, job: Job) -> Exception | None:
        try:
            if (content := self.taken.pop(job, None)) is not None:
                self.target.write(job.target.as_posix(), content)
        except Exception as error:
            return error
        return None

    def discard(self) -> None:
        self.taken.clear()


def _pictures(remote: Remote) -> tuple[list[str], Counter[str]]:
    names: list[str] = []
    others: Counter[str] = Counter()
    for name in remote.walk()[0]:
        suffix = PurePosixPath(name).suffix.lower()
        if hidden(PurePosixPath(name).name):
            continue
        if suffix in SUFFIXES:
            names.append(name)
        else:
            others[suffix or "without suffix"] += 1
    return names, others
