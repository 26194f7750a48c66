"""Tiles: weights that sum to 1, every pixel in its place, and the results of any function of pixels unchanged."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vimzoo.restoration.tiling import Mosaic, blended_axis, official_axis, padded_to


def bands_of(run, mosaic: Mosaic):
    """The rows of the result, as they are finished."""
    for chunk in mosaic.chunks:
        band = mosaic.add(run(mosaic.tiles(chunk), chunk))
        if band is not None:
            yield band


def total_weight(spans, size: int, scale: int) -> torch.Tensor:
    total = torch.zeros(max(spans[-1].stop, size) * scale)
    for span in spans:
        assert span.weights.shape == (span.length * scale,)
        total[span.start * scale : span.stop * scale] += span.weights
    return total[: size * scale]


@settings(max_examples=200, deadline=None)
@given(
    size=st.integers(1, 400),
    parts=st.integers(1, 20),
    multiple=st.sampled_from((1, 8)),
    share=st.floats(0, 0.5),
    scale=st.integers(1, 4),
)
def test_weights_sum_to_one(size: int, parts: int, multiple: int, share: float, scale: int) -> None:
    tile = parts * 8
    overlap = int(tile * share)
    spans = blended_axis(size, tile, overlap, scale, multiple)
    assert torch.allclose(total_weight(spans, size, scale), torch.ones(size * scale), atol=1e-5)
    assert {span.length for span in spans} == {spans[0].length}
    assert spans[0].start == 0 and spans[-1].stop >= size and spans[0].length <= tile
    assert spans[0].length % multiple == 0
    for before, after in itertools.pairwise(spans):
        assert before.stop - after.start >= overlap
        assert before.start < after.start
    fewest = 1 if size <= tile else -(-(size - overlap) // (tile - overlap))
    assert len(spans) == fewest


def test_blending_is_smooth_and_ends_before_the_border() -> None:
    first, second = blended_axis(160, 96, 32)
    assert (first.stop - second.start, first.weights[0].item()) == (32, 1.0)
    falling = first.weights[64:]
    assert (falling.diff() < 0).all() and falling[0] > 0.999 and falling[-1] < 1e-3
    steps = falling.diff().abs()
    assert steps.max() < np.pi / 2 / 32 * 1.01  # the steepest step of a squared cosine
    assert torch.allclose(falling, second.weights[:32].flip(0), atol=1e-6)


@pytest.mark.parametrize("size", (1, 199, 200, 201, 399, 400, 601, 4000))
def test_official_parts(size: int) -> None:
    """As the authors count: size // 200 + 1 parts, a tenth more towards inner neighbours, pasted without blending."""
    spans = official_axis(size, 2)
    count = size // 200 + 1
    part = -(-size // count)
    assert len(spans) == count
    assert torch.equal(total_weight(spans, size, 2), torch.ones(2 * size))
    inner = [span.length for span in spans[1:-1]]
    assert set(inner) <= {part + 2 * (part // 10)}


@pytest.mark.parametrize("batch", (1, 3, 100))
@pytest.mark.parametrize("official", (False, True))
@pytest.mark.parametrize("size", ((1, 1), (37, 203), (230, 90), (64, 64)))
def test_a_function_of_pixels_is_unchanged(size: tuple[int, int], official: bool, batch: int) -> None:
    """Enlarging by repetition, in tiles and put together, is enlarging by repetition."""
    scale = 2
    image = np.random.default_rng(0).integers(0, 65536, (*size, 3), dtype=np.uint16)
    make = official_axis if official else lambda n, s: blended_axis(n, 40, 12, s, 8)
    rows, columns = make(size[0], scale), make(size[1], scale)
    seen = []

    def run(tiles: torch.Tensor, places: list) -> torch.Tensor:
        assert len(tiles) == len(places) <= batch and tiles.dtype == torch.uint16
        seen.extend(places)
        return tiles.float().repeat_interleave(scale, 2).repeat_interleave(scale, 3)

    whole = torch.cat(list(bands_of(run, Mosaic(image, rows, columns, scale, batch))), 1)
    want = image.astype(np.float32).repeat(scale, 0).repeat(scale, 1).transpose(2, 0, 1)
    assert whole.shape == want.shape
    assert np.abs(whole.numpy() - want).max() < 0.05  # of 65535
    assert seen == [(r, c) for r in range(len(rows)) for c in range(len(columns))]


def test_memory_holds_a_band_only() -> None:
    """Finished rows leave: what is kept is never longer than two rows of tiles."""
    image = np.zeros((1000, 50, 1), np.float32)
    rows, columns = blended_axis(1000, 50, 10), blended_axis(50, 50, 10)
    kept = [
        band.untyped_storage().nbytes() // (4 * 50)
        for band in bands_of(lambda tiles, _: tiles.contiguous(), Mosaic(image, rows, columns))
    ]
    assert len(kept) == len(rows) and max(kept) <= 100


def test_padding_mirrors_any_distance() -> None:
    image = np.arange(6).reshape(2, 3, 1)
    assert padded_to(image, 2, 3) is image
    assert padded_to(image, 4, 5)[..., 0].tolist() == [
        [0, 1, 2, 1, 0], [3, 4, 5, 4, 3], [0, 1, 2, 1, 0], [3, 4, 5, 4, 3],
    ]  # fmt: skip
    assert padded_to(image[:1, :1], 3, 9).shape == (3, 9, 1)


@pytest.mark.parametrize("arguments", ((0, 8, 0), (9, 7, 0, 1, 8), (9, 8, 8), (9, 8, -1), (9, 12, 0, 1, 8)))
def test_impossible_tiles_are_refused(arguments: tuple) -> None:
    with pytest.raises(ValueError, match="expected"):
        blended_axis(*arguments)
