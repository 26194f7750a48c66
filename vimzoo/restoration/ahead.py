"""Work in threads whose amount in memory is bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any, Generic, TypeVar

__all__ = ["Pending", "ahead"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Key = TypeVar("Key")

ROOM = 1 << 24
"""Pixels of pictures that wait, above which no further one is begun."""


def ahead(
    pool: Executor,
    do: Callable[[Item], Result],
    items: Iterable[Item],
    pixels: Callable[[Item], int],
    most: int,
    room: int = ROOM,
) -> Iterator[tuple[Item, Future[Result]]]:
    """Call a function for each item in threads, ahead of the one that is yielded, in order.

    Args:
        pool: Runs the function.
        items: Taken one by one, as they are begun.
        pixels: How much memory an item takes.
        most: Items ahead.
        room: Pixels, of the item that is yielded and those ahead, above which no further one is begun.
    """
    waiting, held, source = deque[tuple[Item, Future[Result]]](), 0, iter(items)

    def begin() -> bool:
        nonlocal held
        for item in source:
            waiting.append((item, pool.submit(do, item)))
            held += pixels(item)
            return True
        return False

    while waiting or begin():
        item, future = waiting.popleft()  # which is in memory until the next one is asked for
        while len(waiting) < most and held < room and begin():
            pass
        held -= pixels(item)
        yield item, future


class Pending(Generic[Key]):
    """Tasks that threads finish in any order.

    Args:
        pool: Runs them.
        most: Tasks at once; `add` waits.
        room: Pixels at once; one task may have more.
    """

    def __init__(self, pool: Executor, most: int = 32, room: int = ROOM) -> None:
        self.pool, self.most, self.room = pool, most, room
        self.waiting: dict[Future[None], tuple[Key, int]] = {}
        self.noted: list[tuple[Key, Exception | None]] = []

    def add(self, key: Key, pixels: int, do: Callable[..., None], *arguments: Any) -> None:
        """Begin a task; waits while there are too many."""
        while True:
            running = {future: pixels for future, (_, pixels) in self.waiting.items() if not future.done()}
            if not running or (len(running) < self.most and sum(running.values()) + pixels <= self.room):
                break
            wait(running, return_when=FIRST_COMPLETED)
        self.waiting[self.pool.submit(do, *arguments)] = key, pixels

    def wait(self) -> None:
        """Wait until all tasks that have been begun are finished."""
        wait(self.waiting)

    def note(self, key: Key, error: Exception | None = None) -> None:
        """Note a task that is finished, or has failed, without a thread."""
        self.noted.append((key, error))

    def finished(self) -> Iterator[tuple[Key, Exception | None]]:
        """The tasks that are finished since the last call, with their errors; does not wait."""
        while self.noted:
            yield self.noted.pop(0)
        for future in [future for future in self.waiting if future.done()]:
            key, _ = self.waiting.pop(future)
            error = future.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            yield key, error

    def all(self) -> Iterator[tuple[Key, Exception | None]]:
        """The tasks that are left, as they finish."""
        yield from self.finished()
        while self.waiting:
            wait(self.waiting, return_when=FIRST_COMPLETED)
            yield from self.finished()
