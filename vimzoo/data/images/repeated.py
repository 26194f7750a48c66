"""Detection of shards with the same samples, under two names or in two parts of a data set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from vimzoo.errors import UsageError

if TYPE_CHECKING:
    from .shard_reader import ShardReader

Place = tuple[str, int]
"""A part of the data set, and the number of one of its shards."""
Pairs = list[tuple[Place, Place]]
CHECKED = 3  # samples of two shards whose bytes are compared
PARTS = {"train": "training", "val": "validation", "test": "test"}


def check_repeated(parts: Mapping[str, ShardReader]) -> list[str]:
    """Check that no shard repeats the samples of another.

    Two shards are the same if at least half of the samples of one have the keys, sizes, classes and bytes of samples
    of the other; the bytes of a few are compared. A held-out part may be the same as training in all its shards, to
    evaluate on everything.

    Args:
        parts: readers of train, val and, if given, test.

    Returns:
        Notes for the user: parts that are the same, and shards of a part that share keys.

    Raises:
        UsageError: two shards of a part are the same, or some of a held-out part are training shards.
    """
    notes = []
    same: dict[tuple[str, str], Pairs] = defaultdict(list)
    for one, other in _sharing(parts, "samples"):
        if _equal_bytes(parts, one, other):
            same[one[0], other[0]].append((one, other))
    for (first, second), pairs in same.items():
        here, there = (_name(parts, place) for place in pairs[0])
        more = f" ({len(pairs)} pairs of shards are alike)" if len(pairs) > 1 else ""
        if first == second:
            raise UsageError(
                f"`root`: {there} holds the same samples as {here}{more}; expected each sample in one shard"
            )
        whole = len(pairs) == len(parts[first].shards) == len(parts[second].shards)
        if first == "train" and not whole:
            raise UsageError(
                f"`root`: {there}, for {PARTS[second]}, holds the same samples as {here}, for training{more}; "
                f"expected other ones, as the scores would be of images that were trained on"
            )
        notes.append(f"{PARTS[second]} holds the same samples as {PARTS[first]}: {there}, {here}")
    if shared := [pair for pair in _sharing(parts, "keys") if pair[0][0] == pair[1][0]]:
        here, there = (_name(parts, place) for place in shared[0])
        notes.append(f"keys stand in several shards, with different images: {here}, {there}")
    return notes


def _sharing(parts: Mapping[str, ShardReader], what: str) -> Pairs:
    """Pairs of shards where one shares at least half of its keys, or keys, sizes and classes, with the other."""
    places = [(part, number) for part, reader in parts.items() for number in range(len(reader.shards))]
    owners, hashes = [], []
    for place, (part, number) in enumerate(places):
        index = parts[part].indices[number]
        items: list[Hashable] = list(index.keys)
        if what == "samples":
            items = list(zip(index.keys, index.sizes.tolist(), index.numbers.tolist(), strict=True))
        hashes.append(np.fromiter(map(hash, items), dtype=np.int64, count=len(items)))
        owners.append(np.full(len(items), place))
    everything, owner = np.concatenate(hashes), np.concatenate(owners)
    order = np.argsort(everything, kind="stable")
    repeated = everything[order][1:] == everything[order][:-1]
    pairs = np.stack([owner[order][:-1][repeated], owner[order][1:][repeated]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    smaller = np.minimum(*(np.array([len(part) for part in hashes])[found].T))
    return [(places[a], places[b]) for a, b in found[2 * counts >= smaller].tolist()]


def _equal_bytes(parts: Mapping[str, ShardReader], one: Place, other: Place) -> bool:
    """Whether a few samples with the same keys have the same bytes, in two shards that share such samples."""
    first, second = (parts[part].indices[number] for part, number in (one, other))
    places = {pair: place for place, pair in enumerate(zip(second.keys, second.sizes.tolist(), strict=True))}
    shared = [
        (place, places[pair])
        for place, pair in enumerate(zip(first.keys, first.sizes.tolist(), strict=True))
        if pair in places
    ]
    chosen = shared[:: max(1, len(shared) // CHECKED)][:CHECKED]
    return all(_content(parts, one, a) == _content(parts, other, b) for a, b in chosen)


def _content(parts: Mapping[str, ShardReader], shard: Place, place: int) -> bytes:
    reader = parts[shard[0]]
    return reader.content(int(reader.starts[shard[1]]) + place)


def _name(parts: Mapping[str, ShardReader], place: Place) -> str:
    return parts[place[0]].shards[place[1]]
