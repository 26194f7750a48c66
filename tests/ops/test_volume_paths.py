"""Paths over grids of any rank: axis orders against nested loops, and scans of volumes against the reference."""

from itertools import permutations, product

import pytest
import torch
from torch import Tensor

from vimzoo.ops import CROSS_3D, FORWARD, SLICES, ScanPath, grid_arguments, pad_paths, scan_paths
from vimzoo.ops.paths.path import grid_table

GRIDS = ((2, 3, 4), (1, 5, 2), (4, 1, 1), (2, 2, 3, 2))


def visited(order: tuple[int, ...], sizes: tuple[int, ...]) -> list[int]:
    """The walk written as nested loops over the axes, the first of ``order`` outermost."""
    strides = [int(torch.tensor(sizes[axis + 1 :]).prod()) for axis in range(len(sizes))]
    loops = product(*(range(sizes[axis]) for axis in order))
    return [sum(place * strides[axis] for axis, place in zip(order, places, strict=True)) for places in loops]


@pytest.mark.parametrize("sizes", GRIDS)
def test_axis_orders(sizes: tuple[int, ...]) -> None:
    for order in permutations(range(len(sizes))):
        path = ScanPath.axes(*order)
        assert path.tokens(*sizes).tolist() == visited(order, sizes)
        assert path.reversed().tokens(*sizes).tolist() == visited(order, sizes)[::-1]
        tokens, steps = path.tokens(*sizes), path.inverse(*sizes)
        assert torch.equal(tokens[steps], torch.arange(len(tokens)))


def test_orders_of_maps_are_rows_and_columns() -> None:
    assert ScanPath.axes(0, 1) == ScanPath.axes(0, 1, 2) == FORWARD
    assert ScanPath.axes(1, 0) == ScanPath("column")
    assert ScanPath.axes(2, 0, 1) == ScanPath.axes(2, 0, 1)


@pytest.mark.parametrize("sizes", GRIDS)
def test_rotations_have_closed_forms(sizes: tuple[int, ...]) -> None:
    """An order that starts in the middle reads the columns of a map; the table and the codes say the same."""
    axes = range(len(sizes))
    for first in axes[1:]:
        path = ScanPath.axes(*axes[first:], *axes[:first])
        codes, table, height, width = grid_arguments((path, FORWARD, path.reversed()), sizes)
        assert (codes, table) == ([2, 0, 3], None)
        assert ScanPath("column").tokens(height, width).tolist() == path.tokens(*sizes).tolist()
    assert grid_arguments((FORWARD,), sizes)[:2] == ([0], None)
    codes, table, _, _ = grid_arguments((ScanPath.axes(*axes[::-1]), FORWARD), sizes)
    assert codes == [4, 0] and table is not None


def test_tables_of_volumes_are_cached() -> None:
    first, second = (grid_arguments(CROSS_3D, (3, 2, 4))[1] for _ in range(2))
    assert first is second and first is grid_table(CROSS_3D, (3, 2, 4))
    assert first is not None and first.tolist() == [path.tokens(3, 2, 4).tolist() for path in CROSS_3D]
    assert grid_arguments(SLICES, (3, 2, 4)) == ([0, 1, 2], None, 3, 8)


def tensors(length: int, directions: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = (
        (2, length, 5),
        (2, length, directions, 6),
        (directions, 5, 2),
        (directions, 5, 2),
        (directions, 5),
    )
    x, rows, rates, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    return x, rows, -rates.exp(), weight, bias


def from_the_last(depth: int, height: int, width: int) -> Tensor:
    return torch.arange(depth * height * width).flip(0)


@pytest.mark.parametrize("paths", [CROSS_3D, SLICES, (ScanPath.from_function(from_the_last),)])
@pytest.mark.parametrize("backend", [None, "reference"])
def test_scans_of_volumes(paths: tuple[ScanPath, ...], backend: str | None) -> None:
    """As the same tokens in the order of each path, one after another."""
    sizes = (3, 2, 4)
    x, rows, rates, weight, bias = (t.requires_grad_() for t in tensors(24, len(paths)))
    y = scan_paths(x, rows, rates, weight, bias, paths=paths, grid=sizes, backend=backend)
    expected = torch.zeros_like(x)
    for k, path in enumerate(paths):
        tokens = path.tokens(*sizes)
        one = [part[k : k + 1] for part in (rates, weight, bias)]
        along = scan_paths(
            x[:, tokens], rows[:, tokens, k : k + 1], *one, paths=[FORWARD], backend="reference"
        )
        expected = expected.index_add(1, tokens, along)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    grad = torch.randn_like(y)
    found, wanted = (torch.autograd.grad(out, (x, rows, rates), grad) for out in (y, expected))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("paths", [CROSS_3D, SLICES])
def test_scans_of_volumes_compile(paths: tuple[ScanPath, ...]) -> None:
    torch._dynamo.reset()
    x, *rest = tensors(24, len(paths))

    def function(x: Tensor) -> Tensor:
        return scan_paths(x, *rest, paths=paths, grid=(3, 2, 4))

    torch.testing.assert_close(torch.compile(function, fullgraph=True, backend="aot_eager")(x), function(x))


def test_pads_of_volumes() -> None:
    short = ScanPath.from_table([0, 1])
    padded = pad_paths([short, FORWARD])
    assert padded[0].tokens(2, 1, 2).tolist() == [0, 1, -1, -1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScanPath.axes(), r"order: expected each of the axes 0..0 once, got \(\)"),
        (lambda: ScanPath.axes(0, 2), r"order: expected each of the axes 0..1 once, got \(0, 2\)"),
        (
            lambda: ScanPath("column").tokens(2, 3, 4),
            r"paths: one is for grids of 2 axes, got a grid of 3; ScanPath",
        ),
        (lambda: ScanPath.axes(0, 2, 1).tokens(2, 3), r"paths: one is for grids of 3 axes, got a grid of 2$"),
        (lambda: grid_arguments(CROSS_3D, (2, 3)), r"paths: one is for grids of 3 axes, got a grid of 2"),
        (
            lambda: ScanPath.spiral().tokens(2, 3, 4),
            r"paths: the function of one .* 3 sizes of a 2 x 3 x 4 grid",
        ),
        (lambda: FORWARD.tokens(2, -1, 4), r"size of axis 1: expected a whole number of at least 0, got -1"),
        (lambda: FORWARD.tokens(), r"grid: expected at least one size"),
        (
            lambda: scan_paths(*tensors(24, 6), paths=CROSS_3D, grid=(3, 2, 5)),
            r"grid: expected \(D, H, W\) with D \* H \* W = 24, got \(3, 2, 5\)",
        ),
        (
            lambda: scan_paths(*tensors(24, 1), paths=[FORWARD], grid=(3, 2, 2, 1)),
            r"grid: expected sizes with the product 24, got \(3, 2, 2, 1\)",
        ),
        (lambda: scan_paths(*tensors(24, 1), paths=[FORWARD], grid=()), r"grid: expected .* = 24, got \(\)"),
    ],
)
def test_refusals(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
