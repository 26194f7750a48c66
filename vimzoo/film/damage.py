"""Damage in a film, as far as a decoder reports it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Damage", "Span"]


@dataclass
class Span:
    """Neighbouring frames that may be wrong.

    Attributes:
        first, last: Numbers of frames.
        start: When the first of them is shown, in seconds, if known.
        reason: What the decoder reported first.
    """

    first: int
    last: int
    start: float | None
    reason: str

    def __str__(self) -> str:
        at = "" if self.start is None else f", from {self.start:.3f} s"
        many = f"frames {self.first} to {self.last}" if self.last > self.first else f"frame {self.first}"
        return f"{many}{at}: {self.reason}"


class Damage:
    """Collects damage.

    Frames after a damaged one are predicted from it, so all are suspect up to the next key frame. Not every decoder
    reports damage: HEVC's and VP9's do so rarely.

    Attributes:
        spans: Suspect frames.
        notes: Damage that belongs to no frame.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.notes: list[str] = []
        self._reason: str | None = None
        self._since: int | None = None
        self._open = False

    def packet(self, pts: int | None, reason: str) -> None:
        """A packet is damaged; ``pts`` is its time."""
        if self._reason is None:
            self._reason, self._since, self._open = reason, pts, False
        elif pts is not None:
            self._since = pts

    def frame(self, number: int, seconds: float | None, pts: int | None, key: bool, corrupt: bool) -> None:
        """A frame was decoded."""
        if self._reason is not None and self._open and key and not corrupt and not _before(pts, self._since):
            self._reason = None
        if corrupt:
            self.packet(pts, "the decoder reports a damaged picture")
        if self._reason is None:
            return
        if self._open:
            self.spans[-1].last = number
        else:
            self.spans.append(Span(number, number, seconds, self._reason))
            self._open = True

    def note(self, reason: str) -> None:
        """Damage of the whole film."""
        self.notes.append(reason)

    def report(self) -> list[str]:
        """All damage, one line each."""
        if self._reason is not None and not self._open:  # no frame came after it
            return [*map(str, self.spans), f"the last frames: {self._reason}", *self.notes]
        return [*map(str, self.spans), *self.notes]


def _before(pts: int | None, other: int | None) -> bool:
    return pts is not None and other is not None and pts < other
