"""Progress notes of processes, so that a process that waits can say for which others."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch.distributed as dist

SAY_SO = 20.0  # seconds after which a process says that others have not begun, and again after as many
EVERY = 5.0  # seconds between the notes that each process leaves of where it is
PATIENCE = (
    60.0  # seconds at one place after which a process looks where the others are, and again after as many
)


@dataclass
class Place:
    """The progress of a process.

    Attributes:
        number: count of synchronisation points, which all processes pass in the same order (updates, collectives).
        words: what it is doing, for display.
        since: when it got there, in seconds of the monotonic clock.
    """

    number: int = 0
    words: str = "starting"
    since: float = field(default_factory=time.monotonic)

    def move(self, words: str | None = None) -> None:
        """Reach the next synchronisation point."""
        self.number, self.since = self.number + 1, time.monotonic()
        self.words = words or self.words


@dataclass
class Notes:
    """The progress notes of all processes.

    Attributes:
        seen: the last note of each process, and since when it has been the same.
    """

    store: dist.Store
    seen: dict[int, tuple[str | None, float]] = field(default_factory=dict)

    def read(self, rank: int) -> tuple[str | None, float]:
        """The note of a process (None if it has left none), and for how many seconds it has not changed."""
        key, now = f"place/{rank}", time.monotonic()
        note = self.store.get(key).decode() if self.store.check([key]) else None
        known, since = self.seen.get(rank, (note, now))
        self.seen[rank] = (note, since if note == known else now)
        return note, now - self.seen[rank][1]


@dataclass
class Watch:
    """A thread that publishes the progress of this process, and reports which others are behind when it is stuck."""

    store: dist.Store
    rank: int
    size: int
    place: Place
    every: float
    patience: float
    ended: threading.Event = field(default_factory=threading.Event)
    beats: int = 0

    def __post_init__(self) -> None:
        self.notes = Notes(self.store)

    def run(self) -> None:
        """Run until ``ended``; stops silently if the store is gone, as the run itself then fails."""
        told, patience = -1, self.patience
        with contextlib.suppress(RuntimeError, ValueError):
            while True:
                self.note()
                if self.ended.wait(self.every):
                    return
                if self.place.number != told:
                    told, patience = self.place.number, self.patience
                if time.monotonic() - self.place.since > patience:
                    patience += self.patience
                    if said := self.behind():
                        print(said, file=sys.stderr, flush=True)

    def note(self) -> None:
        """Publish a note."""
        self.beats += 1
        parts = (str(self.place.number), str(self.beats), socket.gethostname(), self.place.words)
        self.store.set(f"place/{self.rank}", "\n".join(parts))

    def behind(self) -> str | None:
        """A message on processes behind this one; None if there are none, or another process has to report them."""
        late = []
        first = self.rank  # of those that wait
        now = time.monotonic()
        for rank in range(self.size):
            note, silent = self.notes.read(rank)
            if note is None:
                late.append(f"process {rank} has not begun")
                continue
            number, _, host, words = note.split("\n", 3)
            if int(number) >= self.place.number:
                first = min(first, rank)
            elif silent > 4 * self.every:
                late.append(f"process {rank} on {host}, {words}, has not been heard of for {silent:.0f} s")
            else:
                late.append(f"process {rank} on {host} is {words}")
        if not late or first < self.rank:
            return None
        return f"waiting for {now - self.place.since:.0f} s, {self.place.words}: {_listed(late)}"


@contextlib.contextmanager
def watched(store: dist.Store, rank: int, size: int, place: Place) -> Iterator[Watch]:
    """Publish the progress of this process while the block runs."""
    watch = Watch(store, rank, size, place, EVERY, PATIENCE)
    thread = threading.Thread(target=watch.run, name="vimzoo-watch", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.ended.set()
        thread.join(watch.every)


def roll_call(store: dist.Store, rank: int, size: int, seconds: float) -> None:
    """Wait until every process has called this; process 0 says from time to time which have not.

    Raises:
        RuntimeError: some have not within ``seconds``, naming them; or the store is gone.
    """
    store.set(f"here/{rank}", "")
    if store.add("here", 1) == size:
        store.set("all here", "")
    begun, say_so = time.monotonic(), SAY_SO
    while not store.check(["all here"]):
        waited = time.monotonic() - begun
        if waited >= min(say_so, seconds):
            missing = [str(other) for other in range(size) if not store.check([f"here/{other}"])]
            kind = "process" if len(missing) == 1 else "processes"
            said = f"{kind} {_listed(missing, ', ')} of {size} did not begin within {waited:.0f} s"
            if waited >= seconds:
                raise RuntimeError(said)
            if rank == 0:
                print(f"waiting: {said}", file=sys.stderr, flush=True)
            say_so += SAY_SO
        time.sleep(min(1.0, 0.01 + waited / 10))  # the store's own waiting fills the log


def _listed(late: list[str], between: str = "; ") -> str:
    rest = f", and {len(late) - 8} more" if len(late) > 8 else ""
    return between.join(late[:8]) + rest
