"""Shared work: each item is processed once, by any process, and process 0 gets the results in order.

A command that torchrun may start runs inside `shared_command`, loads its model by `in_turn` and hands its list of work
to `share`, which is used as ``map`` is.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import os
import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch.distributed as dist

from vimzoo.commands import Exit, report
from vimzoo.errors import UsageError

from .cluster import launched
from .parallel import ProcessLost, World
from .watch import EVERY, Notes

Item = TypeVar("Item")
Result = TypeVar("Result")

POLL, LOST = 0.05, 120.0  # seconds: between looks for results; without a note of a process
PART = 4 << 20  # bytes; torch's store takes values of up to 8 MiB
_numbers = itertools.count()


def share(do: Callable[[Item], Result], items: Iterable[Item], world: World) -> Iterator[Result]:
    """``map(do, items)`` over all processes; each free process takes the next item.

    Args:
        do: called once per item, in one of the processes.
        items: taken from process 0 (others may see other files) and sent to all.

    Returns:
        In process 0 an iterator over the results in the order of the items, as they become available. In other
        processes an empty iterator, which ends when all items are done.

    Raises:
        ProcessLost: another process has ended.
    """
    if world.size == 1:
        yield from map(do, items)
        return
    work: Sequence[Item] = world.first(lambda: list(items))
    assert world.store is not None
    board = _Board(world.store, len(work))
    if world.main:
        yield from _collected(do, work, board, world)
        board.store.set("end", "")
    else:
        while (index := board.claim()) is not None:
            board.put(index, do(work[index]))
        while not board.store.check(["end"]):
            time.sleep(POLL)
    world.wait()  # the store may live in process 0


def _collected(do: Callable, work: Sequence[Any], board: _Board, world: World) -> Iterator[Any]:
    """In process 0: process items like the others, and yield results in order."""
    done: dict[int, Any] = {}
    others = Others(world)
    for place in range(len(work)):
        while place not in done:
            if board.has(place):
                done[place] = board.take(place)
            elif (index := board.claim()) is not None:
                done[index] = do(work[index])
            else:
                others.check()
                time.sleep(POLL)
        yield done.pop(place)


class _Board:
    """Claims and results in the store of all processes.

    Args:
        count: of items.
    """

    def __init__(self, store: dist.Store, count: int) -> None:
        self.store = dist.PrefixStore(f"share{next(_numbers)}", store)
        self.count, self.all_claimed = count, False

    def claim(self) -> int | None:
        """The index of an item that no other process has taken; None if none is left."""
        index = self.count if self.all_claimed else self.store.add("claimed", 1) - 1
        self.all_claimed = index >= self.count
        return None if self.all_claimed else index

    def put(self, index: int, result: Any) -> None:
        content = pickle.dumps(result)
        parts = range(0, len(content), PART)
        for number, first in enumerate(parts):
            self.store.set(f"{index}/{number}", content[first : first + PART])  # type: ignore[arg-type]
        self.store.set(str(index), str(len(parts)))

    def has(self, index: int) -> bool:
        return self.store.check([str(index)])

    def take(self, index: int) -> Any:
        keys = [f"{index}/{number}" for number in range(int(self.store.get(str(index))))]
        content = b"".join(self.store.get(key) for key in keys)
        for key in keys:
            self.store.delete_key(key)
        return pickle.loads(content)


class Others:
    """Process 0's check that the other processes are alive, however long an item takes them.

    torchrun ends all processes if one dies, but not every launcher does.
    """

    def __init__(self, world: World) -> None:
        assert world.store is not None
        self.ranks, self.notes, self.looked = range(1, world.size), Notes(world.store), 0.0

    def check(self) -> None:
        """Look at the notes of the others, at most every `EVERY` seconds.

        Raises:
            ProcessLost: the note of a process has not changed for `LOST` seconds.
        """
        if time.monotonic() - self.looked < EVERY:
            return
        self.looked = time.monotonic()
        for rank in self.ranks:
            silent = self.notes.read(rank)[1]
            if silent > LOST:
                raise ProcessLost(
                    f"process {rank} has not been heard of for {silent:.0f} s; its work is missing"
                )


def in_turn(act: Callable[[], Result], world: World) -> Result:
    """Call ``act`` in every process; first in one per machine, so that it downloads files for the others.

    Raises:
        UsageError: it failed in another process. Errors of this process are raised unchanged.
    """
    if world.size == 1:
        return act()
    answer: Any = None
    error: Exception | None = None
    for first in (True, False):
        if first == (world.local_rank == 0):
            try:
                answer = act()
            except Exception as caught:
                error = caught
        failures = [
            (rank, text) for rank, text in enumerate(world.gather(error and str(error))) if text is not None
        ]
        if failures:
            rank, text = failures[0]
            told = UsageError(f"process {rank}: {text}" if rank else text)
            raise told if error is None or isinstance(error, ValueError) else error
    return answer


def shared_command(
    parse: Callable[[Sequence[str] | None], argparse.Namespace],
    arguments: Sequence[str] | None,
    command: Callable[[argparse.Namespace, World], int],
) -> int:
    """Run a command among the processes of a launcher, or alone; returns its exit status.

    Help and mistakes that ``parse`` finds are printed by process 0; a `UsageError` is printed once, by whichever
    process meets it first, and gives 2.
    """
    try:
        with launched() as world:
            with _first_speaks(world):
                asked = parse(arguments)
            try:
                return command(asked, world)
            except UsageError as error:
                return report(error) if _first_to_say(str(error), world) else Exit.USAGE
    except (UsageError, ProcessLost) as error:  # UsageError: of the launcher's variables
        return report(error)


def _first_to_say(text: str, world: World) -> bool:
    """Whether no other process has printed the same message."""
    if world.store is None:
        return True
    key = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
    return world.store.add(f"said/{key}", 1) == 1


@contextlib.contextmanager
def _first_speaks(world: World) -> Iterator[None]:
    """Silence all processes but 0 within the block, because all print the same."""
    with contextlib.ExitStack() as stack:
        if not world.main:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield
