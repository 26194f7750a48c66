"""Every scan order on every small grid: what it visits, by which steps, inverse and adjoint, and the ops along it."""

import copy
import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_helpers import assert_matches_reference, path_inputs
from torch import Tensor

from vimzoo.ops import CROSS, FORWARD, ScanPath, scan_paths
from vimzoo.ops.paths.path import ATROUS, SNAKES, pad_paths, path_arguments, path_table

COLUMN = ScanPath("column")


def every_other(height: int, width: int) -> list[int]:
    """A user's order: even tokens, then odd ones."""
    count = height * width
    return [*range(0, count, 2), *range(1, count, 2)]


PERMUTATIONS: dict[str, ScanPath] = {
    "row": FORWARD,
    "column": COLUMN,
    "snake": ScanPath.snake(),
    "snake by columns": ScanPath.snake("column"),
    "hilbert": ScanPath.hilbert(),
    "zigzag": ScanPath.diagonal(),
    "diagonal": ScanPath.diagonal(zigzag=False),
    "spiral": ScanPath.spiral(),
    "window without pads": ScanPath.window((2, 3), pads=False),
    "hilbert in windows": ScanPath.window(4, inside=ScanPath.hilbert(), between=ScanPath.snake(), pads=False),
    "function": ScanPath.from_function(every_other),
}
PARTIAL: dict[str, ScanPath] = {
    "window": ScanPath.window(2),
    "oblong window": ScanPath.window((3, 2), between=COLUMN),
    "large window": ScanPath.window(7),
    "stride": ScanPath.stride(2, 1, 0, along=COLUMN),
    "oblong stride": ScanPath.stride((3, 2), 2, 1),
    "windows in strides": ScanPath.stride(2, along=ScanPath.window(2)),
}
KINDS = PERMUTATIONS | PARTIAL
STEPPING = ("snake", "snake by columns", "hilbert", "spiral")
"""Paths that promise to step from neighbour to neighbour."""
sizes = st.integers(1, 13)
quick = settings(max_examples=25, deadline=None, derandomize=True)


def moves(path: ScanPath) -> list[ScanPath]:
    """A path and some of its images."""
    flips = [path.flipped(vertical=True), path.flipped(horizontal=True)]
    return [path, path.reversed(), path.transposed(), *flips, flips[0].transposed().reversed()]


@pytest.mark.parametrize("kind", PERMUTATIONS)
@given(height=sizes, width=sizes)
@quick
def test_permutations_visit_every_token_once(kind: str, height: int, width: int) -> None:
    for path in moves(PERMUTATIONS[kind]):
        tokens, inverse = path.tokens(height, width), path.inverse(height, width)
        assert tokens.dtype == inverse.dtype == torch.int64
        assert torch.equal(tokens[inverse], torch.arange(height * width))
        assert torch.equal(inverse[tokens], torch.arange(height * width))


@pytest.mark.parametrize("kind", PARTIAL)
@given(height=sizes, width=sizes)
@quick
def test_partial_paths_visit_no_token_twice(kind: str, height: int, width: int) -> None:
    for path in moves(PARTIAL[kind]):
        tokens = path.tokens(height, width)
        seen = tokens[tokens >= 0]
        assert len(seen.unique()) == len(seen)
        if "window" in kind and "strides" not in kind:
            assert len(seen) == height * width
        if len(seen) < len(tokens):
            with pytest.raises(ValueError, match=r"path: has no inverse .* pads, \d+ tokens left out"):
                path.inverse(height, width)


@pytest.mark.parametrize("kind", STEPPING)
@given(height=st.integers(1, 25), width=st.integers(1, 25))
@quick
def test_steps_lead_to_neighbours(kind: str, height: int, width: int) -> None:
    """On every grid: the ends are free to lie where parity lets a walk from neighbour to neighbour end."""
    for path in moves(KINDS[kind]):
        cells = [divmod(token, width) for token in path.tokens(height, width).tolist()]
        assert all(abs(a - c) + abs(b - d) == 1 for (a, b), (c, d) in pairwise(cells))


@given(height=sizes, width=sizes)
@quick
def test_hilbert_joins_two_corners_of_a_side(height: int, width: int) -> None:
    """It starts top left; of the two corners beside it, it ends in one that the chess colours allow."""
    tokens = ScanPath.hilbert().tokens(height, width)
    ends = {width - 1, (height - 1) * width}
    assert tokens[0] == 0 and int(tokens[-1]) in ends


def test_hilbert_keeps_neighbours_together() -> None:
    """What it is for: an aligned 4 x 4 block of a 16 x 16 map is 16 steps in a row."""
    when = ScanPath.hilbert().inverse(16, 16).view(4, 4, 4, 4).permute(0, 2, 1, 3).flatten(0, 1).flatten(1)
    assert (when.amax(1) - when.amin(1) == 15).all()


@given(height=sizes, width=sizes, step=st.integers(1, 4))
@quick
def test_strides_share_the_map_out(height: int, width: int, step: int) -> None:
    paths = [ScanPath.stride(step, row, column) for row in range(step) for column in range(step)]
    steps = torch.stack([path.tokens(height, width) for path in paths])
    assert steps.shape[1] == -(-height // step) * -(-width // step)
    assert torch.equal(steps[steps >= 0].sort()[0], torch.arange(height * width))


@given(height=sizes, width=sizes, h=st.integers(1, 5), w=st.integers(1, 5))
@quick
def test_windows_are_those_of_a_padded_map(height: int, width: int, h: int, w: int) -> None:
    """LocalMamba's rule, by padding, folding and unfolding a map of token numbers."""
    rows, columns = -(-height // h) * h, -(-width // w) * w
    padded = torch.full((rows, columns), -1)
    padded[:height, :width] = torch.arange(height * width).view(height, width)
    expected = padded.view(rows // h, h, columns // w, w).transpose(1, 2).flatten()
    path = ScanPath.window((h, w))
    assert torch.equal(path.tokens(height, width), expected)
    assert torch.equal(path.reversed().tokens(height, width), expected.flip(0))
    bare = ScanPath.window((h, w), pads=False).tokens(height, width)
    assert torch.equal(bare, expected[expected >= 0])


BY_HAND = {
    "snake": (ScanPath.snake(), (3, 4), "0 1 2 3 7 6 5 4 8 9 10 11"),
    "snake by columns": (ScanPath.snake("column"), (3, 4), "0 4 8 9 5 1 2 6 10 11 7 3"),
    "snake from the bottom left": (ScanPath.snake().flipped(vertical=True), (3, 3), "6 7 8 5 4 3 0 1 2"),
    "snake from the top right": (ScanPath.snake().flipped(horizontal=True), (2, 3), "2 1 0 3 4 5"),
    "window": (ScanPath.window(2), (3, 3), "0 1 3 4 2 -1 5 -1 6 7 -1 -1 8 -1 -1 -1"),
    "window, reversed": (
        ScanPath.window(2).reversed(), (3, 3), "-1 -1 -1 8 -1 -1 7 6 -1 5 -1 2 4 3 1 0"
    ),
    "window without pads": (ScanPath.window(2, pads=False), (3, 3), "0 1 3 4 2 5 6 7 8"),
    "window larger than the map": (ScanPath.window(3), (1, 2), "0 1 -1 -1 -1 -1 -1 -1 -1"),
    "columns in windows in columns": (
        ScanPath.window(2, inside=COLUMN, between=COLUMN), (4, 4), "0 4 1 5 8 12 9 13 2 6 3 7 10 14 11 15"
    ),
    "stride": (ScanPath.stride(2, 1, 1, along=COLUMN), (3, 5), "6 -1 8 -1 -1 -1"),
    "stride off a row": (ScanPath.stride(2, 1, 0), (1, 4), "-1 -1"),
    "hilbert": (ScanPath.hilbert(), (4, 4), "0 1 5 4 8 12 13 9 10 14 15 11 7 6 2 3"),
    "hilbert, even by odd": (ScanPath.hilbert(), (2, 3), "0 1 2 5 4 3"),
    "hilbert, a line": (ScanPath.hilbert(), (4, 1), "0 1 2 3"),
    "zigzag": (ScanPath.diagonal(), (3, 4), "0 1 4 8 5 2 3 6 9 10 7 11"),
    "diagonal": (ScanPath.diagonal(zigzag=False), (3, 3), "0 1 3 2 4 6 5 7 8"),
    "antidiagonal": (
        ScanPath.diagonal(zigzag=False).flipped(horizontal=True), (3, 3), "2 1 5 0 4 8 3 7 6"
    ),
    "spiral": (ScanPath.spiral(), (3, 4), "0 1 2 3 7 11 10 9 8 4 5 6"),
    "spiral outward": (ScanPath.spiral().reversed(), (3, 3), "4 3 6 7 8 5 2 1 0"),
    "function": (ScanPath.from_function(every_other).reversed(), (1, 5), "3 1 4 2 0"),
    "table, mirrored": (ScanPath.from_table([5, -1, 0]).flipped(horizontal=True), (2, 3), "3 -1 2"),
    "table, transposed": (ScanPath.from_table([1, -1, 4]).transposed(), (2, 3), "3 -1 2"),
}  # fmt: skip


@pytest.mark.parametrize(("path", "grid", "expected"), BY_HAND.values(), ids=BY_HAND.keys())
def test_orders_by_hand(path: ScanPath, grid: tuple[int, int], expected: str) -> None:
    assert path.tokens(*grid).tolist() == [int(token) for token in expected.split()]


def test_empty_maps() -> None:
    assert all(path.tokens(0, 4).numel() == 0 for path in KINDS.values())


@pytest.mark.parametrize("kind", KINDS)
@given(height=sizes, width=sizes, vertical=st.booleans(), horizontal=st.booleans())
@quick
def test_moves_are_those_of_the_map(
    kind: str, height: int, width: int, vertical: bool, horizontal: bool
) -> None:
    """Walking a mirrored path reads what the path reads of the mirrored map."""
    path, grid = KINDS[kind], torch.arange(height * width).view(height, width)
    axes = [axis for axis, flip in enumerate((vertical, horizontal)) if flip]

    def read(values: Tensor, path: ScanPath) -> Tensor:
        tokens = path.tokens(*values.shape)
        return torch.where(tokens < 0, -1, values.flatten()[tokens])

    flipped = path.flipped(vertical=vertical, horizontal=horizontal)
    assert torch.equal(read(grid, flipped), read(grid.flip(axes), path))
    assert torch.equal(read(grid, path.transposed()), read(grid.T.contiguous(), path))
    assert torch.equal(read(grid, path.reversed()), read(grid, path).flip(0))


@pytest.mark.parametrize("kind", KINDS)
def test_moves_undo_themselves(kind: str) -> None:
    """Equal paths are one key, however they were made; rows and columns keep their closed forms where they can."""
    path = KINDS[kind].reversed()
    assert path.reversed() == KINDS[kind] and path != KINDS[kind]
    assert path.transposed().transposed() == path
    flipped = path.flipped(vertical=True)
    assert flipped.flipped(vertical=True) == path and flipped.reversed().reversed() == flipped
    turned = path.flipped(horizontal=True).transposed()
    assert turned == path.transposed().flipped(vertical=True)
    assert len({path, flipped.flipped(vertical=True), copy.deepcopy(path)}) == 1


def test_rows_and_columns_stay_closed() -> None:
    assert FORWARD.transposed() == COLUMN and COLUMN.transposed() == FORWARD
    assert COLUMN.flipped(vertical=True, horizontal=True) == COLUMN.reversed()
    assert path_arguments([path.transposed() for path in CROSS], 3, 4) == ([2, 0, 3, 1], None)


def test_paths_survive_another_process() -> None:
    """Hashes of strings differ between processes, so a kept hash must not travel."""
    paths = (ScanPath.window(7).transposed(), ScanPath.from_table([2, 0]), *CROSS, *ATROUS)
    text = pickle.dumps(paths)
    assert pickle.loads(text) == paths and b"_hash" not in text


def test_tables_are_built_once() -> None:
    calls = []

    def order(height: int, width: int) -> Tensor:
        calls.append((height, width))
        return torch.arange(height * width)

    paths = (ScanPath.from_function(order), ScanPath.from_function(order).reversed())
    first, second = (path_arguments(paths, 3, 5)[1] for _ in range(2))
    assert first is second and first is not None and first.dtype == torch.int32
    path_arguments(paths, 5, 3)
    assert sorted(calls) == [(3, 5), (3, 5), (5, 3), (5, 3)]  # a path and its reverse are two paths


@pytest.mark.parametrize("kind", KINDS)
@given(height=st.integers(1, 9), width=st.integers(1, 9))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_scatter_is_the_adjoint_of_the_gather(kind: str, height: int, width: int) -> None:
    """``<gather(x), y> = <x, scatter(y)>`` along a path with its pads, exactly, and the op's reading and merging are
    this pair: with no input reaching the state, D = 1 makes the op the product of both."""
    tokens, count = KINDS[kind].tokens(height, width), height * width
    x, y = torch.randint(-9, 9, (count,)), torch.randint(-9, 9, (len(tokens),))
    gathered = torch.where(tokens < 0, 0, x[tokens])
    scattered = torch.zeros(count + 1, dtype=x.dtype).index_add(0, tokens % (count + 1), y)[:count]
    assert (gathered * y).sum() == (x * scattered).sum()

    inputs = path_inputs(1, count, 1, 1, 1, 1, optional="D")
    inputs["x"], inputs["D"] = x.float().view(1, -1, 1), torch.ones(1, 1)
    inputs["x_dbl"] = torch.zeros(1, count, 1, 3)
    for backend in ("cpu", "reference"):
        read = scan_paths(**inputs, paths=[KINDS[kind]], grid=(height, width), merge=False, backend=backend)  # type: ignore[arg-type]
        merged = scan_paths(**inputs, paths=[KINDS[kind]], grid=(height, width), backend=backend)  # type: ignore[arg-type]
        assert torch.equal(read.flatten(), gathered.float())
        visits = torch.bincount(tokens[tokens >= 0], minlength=count)
        assert torch.equal(merged.flatten(), (x * visits).float())


@pytest.mark.parametrize("grid", [(5, 7), (1, 6), (6, 1)], ids=["5 x 7", "1 x 6", "6 x 1"])
@pytest.mark.parametrize("merge", [True, False], ids=["merged", "unmerged"])
@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
@pytest.mark.usefixtures("needs_native")
def test_native_along_every_path(kind: str, merge: bool, grid: tuple[int, int]) -> None:
    """Forward and all gradients; ``mixed`` has rows beside windows, as LocalVMamba."""
    if kind == "mixed":
        paths = pad_paths([FORWARD, ScanPath.window(3), ScanPath.stride(2), ScanPath.hilbert().reversed()])
    else:
        path = KINDS[kind]
        paths = (path, path.reversed(), path.flipped(vertical=True))
    tensors = path_inputs(2, grid[0] * grid[1], 17, len(paths), 3, 2, optional="D z" if merge else "D")
    assert_matches_reference(scan_paths, tensors, paths=paths, grid=grid, merge=merge)


@pytest.mark.parametrize("paths", [SNAKES, ATROUS], ids=["snakes", "atrous"])
def test_named_sets_cover_the_map_equally(paths: tuple[ScanPath, ...]) -> None:
    table = path_table(paths, 5, 7)
    assert table is not None
    visits = torch.bincount(table[table >= 0].long(), minlength=35)
    assert (visits == visits[0]).all() and len(paths) == 4


def test_padding_to_the_longest() -> None:
    paths = (FORWARD, ScanPath.window(2), ScanPath.stride(2))
    padded = pad_paths(paths)
    table = path_table(padded, 3, 3)
    assert table is not None and table.shape == (3, 16)
    for path, row in zip(paths, table, strict=True):
        tokens = path.tokens(3, 3)
        assert torch.equal(row[: len(tokens)].long(), tokens) and (row[len(tokens) :] == -1).all()
    assert padded[0].tokens(4, 4).tolist() == list(range(16))  # where windows fit, rows get no pads
    assert (
        pad_paths(CROSS[:1] * 2) == CROSS[:1] * 2
    )  # one path is as long as itself: it keeps its closed form
    assert padded == pad_paths(paths)


def test_pads_at_the_end_change_nothing() -> None:
    inputs = path_inputs(2, 9, 5, 1, optional="D z")
    alone = scan_paths(**inputs, paths=[FORWARD], grid=(3, 3))  # type: ignore[arg-type]
    padded = pad_paths([FORWARD, ScanPath.window(2)])[:1]
    torch.testing.assert_close(scan_paths(**inputs, paths=padded, grid=(3, 3)), alone)  # type: ignore[arg-type]


REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "by": (lambda: ScanPath.snake("diagonal"), r"by: expected 'row' or 'column', got 'diagonal'"),
    "size": (lambda: ScanPath.window(0), r"size: expected a whole number of at least 1 or a pair .*, got 0"),
    "triple": (lambda: ScanPath.window((1, 2, 3)), r"size: expected .* pair of them, got \(1, 2, 3\)"),  # type: ignore[arg-type]
    "step": (lambda: ScanPath.stride(2.5), r"step: expected a whole number of at least 1 .*, got 2.5"),  # type: ignore[arg-type]
    "row": (lambda: ScanPath.stride(2, 2), r"row: expected an offset in 0\.\.1, got 2"),
    "column": (lambda: ScanPath.stride((2, 3), 0, -1), r"column: expected an offset in 0\.\.2, got -1"),
    "list": (lambda: ScanPath("table", table=[0]), r"table: expected a tuple .* or a function, got \[0\]"),  # type: ignore[arg-type]
    "unhashable": (lambda: ScanPath("table", table=([0],)), r"table: expected something hashable"),  # type: ignore[arg-type]
    "fractions": (lambda: ScanPath.from_table([0.5]), r"table: expected token numbers, whole .* got float64"),  # type: ignore[list-item]
    "two rows": (
        lambda: ScanPath.from_table(torch.zeros(2, 2, dtype=torch.long)),
        r"table: .* in one row, got int64 of shape \(2, 2\)",
    ),
    "function's fractions": (
        lambda: ScanPath.from_function(float_order).tokens(2, 2), r"table: expected token numbers, whole"
    ),
    "function off the grid": (
        lambda: ScanPath.from_function(lambda h, w: [h * w]).tokens(2, 2),
        r"paths: a table names tokens outside 0\.\.3 of a 2 x 2 grid",
    ),
    "repeats": (
        lambda: ScanPath.from_table([0, 0, -1, 1]).inverse(2, 2),
        r"path: has no inverse on a 2 x 2 grid: 4 steps for 4 tokens, 1 pads, 2 tokens left out",
    ),
    "lengths": (
        lambda: path_arguments([FORWARD, ScanPath.window(2)], 3, 3),
        r"paths: all need the same number of steps, got \[9, 16\]",
    ),
}  # fmt: skip


def float_order(height: int, width: int) -> Tensor:
    """Not token numbers."""
    return torch.rand(height * width)


@pytest.mark.parametrize(("make", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusals(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
