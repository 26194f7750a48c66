"""Shared work: each item is processed once, by any process, and process 0 gets the results in order.

A command that torchrun may start runs inside `shared_command`, loads its model by `in_turn` and hands its list of work
to `share`, which is used as ``map`` is.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import logging
import os
import pickle
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch.distributed as dist

from vimzoo.commands import Exit, report
from vimzoo.errors import UsageError

from .cluster import launched
from .devices import LOST as ENDED
from .devices import run_on
from .parallel import ProcessLost, World
from .watch import EVERY, Notes

Item = TypeVar("Item")
Result = TypeVar("Result")

POLL, LOST = 0.05, 120.0  # seconds: between looks for results; without a note of a process
PART = 4 << 20  # bytes; torch's store takes values of up to 8 MiB
_numbers = itertools.count()
_logger = logging.getLogger(__name__)


def share(do: Callable[[Item], Result], items: Iterable[Item], world: World) -> Iterator[Result]:
    """``map(do, items)`` over all processes; each free process takes the next item.

    Args:
        do: called once per item, in one of the processes.
        items: taken from process 0 (others may see other files) and sent to all.

    Returns:
        In process 0 an iterator over the results in the order of the items, as they become available. In other
        processes an empty iterator, which ends when all items are done.

    Items of a process that is lost are repeated in process 0.
    """
    return in_order(
        share_stream(lambda claimed: ((index, do(item)) for index, item in claimed), items, world)
    )


def share_stream(
    do: Callable[[Iterator[tuple[int, Item]]], Iterator[tuple[int, Result]]],
    items: Iterable[Item],
    world: World,
) -> Generator[tuple[int, Result]]:
    """`share` for a function that works on several items at once.

    Args:
        do: called in each process with an iterator over the numbers and items that it gets; an item is this process's
            from the moment it is taken from there. Gives the number and the result of each, in any order.
        items: as in `share`.

    Returns:
        In process 0 the numbers and results of all processes, in any order. In other processes nothing.
    """
    if world.size == 1:
        yield from do(enumerate(items))
        return
    work: Sequence[Item] = world.first(lambda: list(items))
    assert world.store is not None
    board = _Board(world.store, len(work))

    def processed(indices: Iterable[int]) -> Iterator[tuple[int, Result]]:
        return do((index, work[index]) for index in indices)

    if world.main:
        yield from _collected(processed, board, Others(world))
    else:
        for index, result in processed(board.claims()):
            board.put(index, result)
        board.leave(world.rank)


def in_order(results: Iterable[tuple[int, Result]]) -> Iterator[Result]:
    """Numbered results from 0 on in the order of their numbers, each as soon as those before it are there."""
    early: dict[int, Result] = {}
    following = 0
    for index, result in results:
        early[index] = result
        while following in early:
            yield early.pop(following)
            following += 1


def _collected(
    processed: Callable[[Iterable[int]], Iterator[tuple[int, Result]]], board: _Board, others: Others
) -> Iterator[tuple[int, Result]]:
    """In process 0: process items like the others, and yield the results of all, each once.

    Items of a process that has ended are repeated here.
    """
    left = set(range(board.count))

    def new(answers: Iterable[tuple[int, Result]]) -> Iterator[tuple[int, Result]]:
        for index, result in answers:
            if index in left:
                left.remove(index)
                yield index, result

    for answer in processed(board.claims()):
        yield from new([answer])
        yield from new(board.new())
    while left:
        yield from new(board.new())
        if not left:
            break
        try:
            others.check()
            time.sleep(POLL)
        except ProcessLost as error:
            _logger.warning("%s; process 0 repeats %d items", error, len(left))
            yield from new(processed(sorted(left)))
    board.end()
    others.wait_for(board)


class _Board:
    """Claims and results in the store of all processes.

    Args:
        count: of items.
    """

    def __init__(self, store: dist.Store, count: int) -> None:
        self.store = dist.PrefixStore(f"share{next(_numbers)}", store)
        self.count, self.taken = count, 0

    def claims(self) -> Iterator[int]:
        """The indices of items that no other process has taken, until none is left."""
        while (index := self.store.add("claimed", 1) - 1) < self.count:
            yield index

    def put(self, index: int, result: Any) -> None:
        """Hand a result to process 0."""
        content = pickle.dumps((index, result))
        parts = range(0, len(content), PART)
        place = self.store.add("results", 1) - 1
        for number, first in enumerate(parts):
            self.store.set(f"{place}/{number}", content[first : first + PART])  # type: ignore[arg-type]
        self.store.set(str(place), str(len(parts)))

    def end(self) -> None:
        """Let the other processes go."""
        self.store.set("end", "")

    def leave(self, rank: int) -> None:
        """Wait for the end, and note that this process asks no more; the store may live in process 0."""
        while not self.store.check(["end"]):
            time.sleep(POLL)
        self.store.set(f"left/{rank}", "")

    def new(self) -> Iterator[tuple[int, Any]]:
        """The results that have been handed in since the last call, with their indices."""
        while self.taken < self.count and self.store.check([str(self.taken)]):
            keys = [f"{self.taken}/{part}" for part in range(int(self.store.get(str(self.taken))))]
            content = b"".join(self.store.get(key) for key in keys)
            for key in (*keys, str(self.taken)):
                self.store.delete_key(key)
            self.taken += 1
            yield pickle.loads(content)


class Others:
    """Process 0's check that the other processes are alive, however long an item takes them.

    torchrun ends all processes if one dies, but not every launcher does.
    """

    def __init__(self, world: World) -> None:
        assert world.store is not None
        self.store, self.notes = world.store, Notes(world.store)
        self.ranks, self.looked = list(range(1, world.size)), 0.0

    def check(self) -> None:
        """Look at the notes of the others, at most every `EVERY` seconds.

        Raises:
            ProcessLost: the launcher has noted that a process has ended, or its note has not changed for `LOST`
                seconds. It is not looked for again.
        """
        for rank in [rank for rank in self.ranks if self.store.check([ENDED.format(rank)])]:
            self.ranks.remove(rank)
            how = self.store.get(ENDED.format(rank)).decode()
            raise ProcessLost(f"process {rank} was ended by {how}; its work is missing")
        if time.monotonic() - self.looked < EVERY:
            return
        self.looked = time.monotonic()
        for rank in list(self.ranks):
            silent = self.notes.read(rank)[1]
            if silent > LOST:
                self.ranks.remove(rank)
                raise ProcessLost(
                    f"process {rank} has not been heard of for {silent:.0f} s; its work is missing"
                )

    def wait_for(self, board: _Board) -> None:
        """Wait until all that are alive have seen the end."""
        while any(not board.store.check([f"left/{rank}"]) for rank in self.ranks):
            with contextlib.suppress(ProcessLost):
                self.check()
            time.sleep(POLL)


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
    module: str | None = None,
) -> int:
    """Run a command among the processes of a launcher, or alone; returns its exit status.

    With ``--devices`` (`add_devices`) of a command alone, ``python -m MODULE`` runs once per device.

    Help and mistakes that ``parse`` finds are printed by process 0; a `UsageError` is printed once, by whichever
    process meets it first, and gives 2.
    """
    try:
        with launched() as world:
            with _first_speaks(world):
                asked = parse(arguments)
            try:
                devices = getattr(asked, "devices", None)
                if getattr(asked, "engine", None) is not None and (devices or world.size > 1):
                    raise UsageError(
                        "--engine ray: expected without --devices and without torchrun, as Ray starts the processes"
                    )
                if devices:
                    if module is not None and world.size == 1 < len(devices):
                        return run_on(devices, module, sys.argv[1:] if arguments is None else arguments)
                    asked.device = _own(devices, world)
                return command(asked, world)
            except UsageError as error:
                return report(error) if _first_to_say(str(error), world) else Exit.USAGE
    except (UsageError, ProcessLost) as error:  # UsageError: of the launcher's variables
        return report(error)


def _own(devices: Sequence[str], world: World) -> str:
    if world.local_rank >= len(devices):
        raise UsageError(
            f"--devices {','.join(devices)}: process {world.rank} is number {world.local_rank} of its machine; "
            "expected a device for each process"
        )
    return devices[world.local_rank]


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
