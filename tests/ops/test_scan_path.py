"""`ScanPath`: orders against nested loops, tables, and what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vimzoo.ops import BACKWARD, BIDIRECTIONAL, CROSS, FORWARD, ScanPath
from vimzoo.ops.paths.path import path_codes, path_table, tokens_from_codes


def visited(order: str, reverse: bool, height: int, width: int) -> list[int]:
    """The walk over a grid, written as the loops that one would draw."""
    if order == "row":
        walk = [row * width + column for row in range(height) for column in range(width)]
    else:
        walk = [row * width + column for column in range(width) for row in range(height)]
    return walk[::-1] if reverse else walk


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (5, 1), (2, 3), (4, 3)])
@pytest.mark.parametrize("order", ["row", "column"])
@pytest.mark.parametrize("reverse", [False, True])
def test_closed_forms(grid: tuple[int, int], order: str, reverse: bool) -> None:
    path = ScanPath(order, reverse)
    assert path.tokens(*grid).tolist() == visited(order, reverse, *grid)
    assert tokens_from_codes(path_codes([path]), None, *grid)[0].tolist() == visited(order, reverse, *grid)
    assert path.reversed().reversed() == path


def test_named_sets() -> None:
    assert [path.tokens(2, 2).tolist() for path in CROSS] == [
        [0, 1, 2, 3],
        [0, 2, 1, 3],
        [3, 2, 1, 0],
        [3, 1, 2, 0],
    ]
    assert BIDIRECTIONAL == (FORWARD, BACKWARD)


def test_paths_are_values() -> None:
    """Equal paths are one dictionary key, so that layers may share tables."""
    assert len({ScanPath.from_table([1, 0]), ScanPath.from_table(torch.tensor([1, 0]).tolist())}) == 1


@given(table=st.lists(st.integers(-1, 11), min_size=1, max_size=20), reverse=st.booleans())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_tables(table: list[int], reverse: bool) -> None:
    path = ScanPath.from_table(table)
    path = path.reversed() if reverse else path
    expected = table[::-1] if reverse else table
    assert path.tokens(3, 4).tolist() == expected
    together = path_table((path, path.reversed()), 3, 4)
    assert together is not None and together.tolist() == [expected, expected[::-1]]
    assert torch.equal(tokens_from_codes(path_codes([path, path]), together, 3, 4), together.long())


def test_closed_forms_need_no_table() -> None:
    assert path_table(CROSS, 3, 4) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScanPath("diagonal"), r"order: expected 'row', 'column' or 'table', got 'diagonal'"),
        (lambda: ScanPath("table"), r"table: needed exactly when order is 'table', got order 'table'"),
        (
            lambda: ScanPath("row", table=(0,)),
            r"table: needed exactly when order is 'table', got order 'row'",
        ),
        (lambda: ScanPath.from_table([4]).tokens(2, 2), r"paths: .* outside 0\.\.3 of a 2 x 2 grid"),
        (lambda: ScanPath.from_table([-2]).tokens(2, 2), r"paths: .* outside 0\.\.3 of a 2 x 2 grid"),
        (
            lambda: path_table((ScanPath.from_table([0]), FORWARD), 2, 2),
            r"paths: all need the same number of steps, got \[1, 4\]",
        ),
    ],
)
def test_refusals(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
