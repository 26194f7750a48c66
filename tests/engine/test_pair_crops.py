"""Crops of pairs of photographs: of the same place, drawn from seed, epoch and index, from every image."""

from pathlib import Path

import numpy as np
import torch
from pair_files import FLIPS

from vimzoo.data import bundled_photos, degraded_folder, train_loader
from vimzoo.data.pairs.crops import PixelCache
from vimzoo.data.pairs.degradations import to_image


def test_crops_are_parts_of_their_photograph(clean: Path) -> None:
    """Each degraded crop is the corresponding part of the whole image reduced at once, in one of eight positions."""
    data = degraded_folder(str(clean), scale=2, crop=16, crops=64, aug=FLIPS)
    source, seen = data.train.pairs, set()
    for index in range(64):
        low, high = data.train[3, index]
        whole_low, whole_high = (to_image(p) for p in source.pixels((3 * 64 + index) % len(source)))
        for turn in range(8):
            a, b = ((x.flip(2) if turn & 1 else x).rot90(turn >> 1, (1, 2)) for x in (low, high))
            windows = whole_low.unfold(1, 8, 1).unfold(2, 8, 1)
            hits = (windows == a[:, None, None]).all(4).all(3).all(0).nonzero()
            if len(hits):
                y, x = (2 * hits[0]).tolist()
                assert torch.equal(whole_high[:, y : y + 16, x : x + 16], b)
                seen.add(turn)
                break
        else:
            raise AssertionError(f"crop {index} is no part of its photograph")
    assert seen == set(range(8))


def test_crops_depend_on_seed_epoch_and_index_alone(clean: Path) -> None:
    one, two = (degraded_folder(str(clean), sigma=25, crop=16, crops=12, seed=1, aug=FLIPS) for _ in range(2))
    two.train[0, 0]
    assert all(map(torch.equal, one.train[1, 5], two.train[1, 5]))
    assert not torch.equal(one.train[1, 5][0], one.train[2, 5][0])
    other = degraded_folder(str(clean), sigma=25, crop=16, crops=12, seed=2, aug=FLIPS)
    assert not torch.equal(one.train[1, 5][0], other.train[1, 5][0])
    alone, helped = (list(train_loader(one, 4, seed=1, workers=n)) for n in (0, 2))
    assert all(
        torch.equal(a, b) for x, y in zip(alone, helped, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_few_crops_an_epoch_reach_every_image_in_time(clean: Path) -> None:
    data = degraded_folder(str(clean), sigma=5, crop=16, crops=3)
    read: list[int] = []
    original = data.train.pairs.pixels
    data.train.pairs.pixels = lambda index, *args: (read.append(index), original(index, *args))[1]  # type: ignore[method-assign]
    for epoch in range(3):
        for index in range(3):
            data.train[epoch, index]
    assert sorted(set(read)) == list(range(len(data.train.pairs)))


def test_training_crops_of_jpeg_begin_anywhere_in_its_blocks() -> None:
    """The published recipes cut coded images: blocks begin in each of eight columns, before and after a flip."""
    data = bundled_photos(quality=10, crop=62, crops=200, in_chans=1, aug=FLIPS)

    def phase(low: np.ndarray) -> int:
        steps = np.abs(np.diff(low, axis=1)).mean(0)
        return int(np.argmax([steps[offset::8].mean() for offset in range(8)]))

    found = {phase(data.train[0, index][0][0].numpy()) for index in range(100)}
    assert found == set(range(8))


def test_evaluation_is_whole_and_repeatable(clean: Path) -> None:
    data = degraded_folder(str(clean), sigma=25, scale=3, crop=15, eval_crop=None)
    assert (len(data.train.pairs), len(data.val), len(data.test)) == (8, 1, 1) and data.eval_batch == 1
    low, high = data.test[0]
    assert [side * 3 for side in low.shape[1:]] == list(high.shape[1:]) and high.shape[1] % 3 == 0
    assert all(map(torch.equal, data.test[0], data.test[0]))
    cut = degraded_folder(str(clean), sigma=25, scale=3, crop=15, eval_crop=14).test[0]
    assert cut[0].shape == (3, 4, 4) and cut[1].shape == (3, 12, 12)


def test_cache_forgets_the_longest_unused() -> None:
    cache, made = PixelCache(limit=250), []

    def get(key: str) -> None:
        cache.get(key, lambda: made.append(key) or np.zeros(100, dtype=np.uint8))  # type: ignore[func-returns-value]

    for key in "abacab":
        get(key)
    assert made == ["a", "b", "c", "b"] and cache.bytes == 200
