"""`scan_paths`: the native backend against the float64 reference, forward and all gradients."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_helpers import (
    HALF_TOLERANCE,
    LAYOUTS,
    assert_matches_reference,
    path_inputs,
    with_dtype,
    with_layout,
)

from vimzoo.ops import BACKWARD, BIDIRECTIONAL, CROSS, FORWARD, ScanPath, scan_paths

pytestmark = pytest.mark.usefixtures("needs_native")
COLUMN = ScanPath("column")
REPEATED = (ScanPath.from_table([3, 3, 0, 11, 3]), ScanPath.from_table([0, 1, 2, 3, 0]))
PADDED = (
    ScanPath.from_table([-1, 4, -1, 0, 9, 10, -1]),
    ScanPath.from_table([11, 10, 9, -1, -1, 2, 1]).reversed(),
    ScanPath.from_table([-1] * 7),
)

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one step": (dict(length=1), dict(paths=BIDIRECTIONAL)),
    "three steps": (dict(length=3, channels=72, states=16, rank=12), dict(paths=BIDIRECTIONAL)),
    "one whole chunk": (dict(length=32, channels=16), dict(paths=BIDIRECTIONAL)),
    "one more than a chunk": (dict(length=33, channels=17), dict(paths=BIDIRECTIONAL)),
    "image of 224": (dict(batch=1, length=197, channels=40, states=16), dict(paths=BIDIRECTIONAL)),
    "forward alone": (dict(channels=40, directions=1), dict(paths=(FORWARD,))),
    "backward alone": (dict(channels=40, directions=1), dict(paths=(BACKWARD,))),
    "forward twice": (dict(channels=20), dict(paths=(FORWARD, FORWARD))),
    "own x": (dict(channels=40, own=True), dict(paths=BIDIRECTIONAL)),
    "own x, unmerged": (dict(channels=40, own=True, optional="D"), dict(paths=BIDIRECTIONAL, merge=False)),
    "unmerged": (dict(channels=40, optional=""), dict(paths=BIDIRECTIONAL, merge=False)),
    "cross": (dict(channels=72, directions=4, states=1, rank=6), dict(paths=CROSS, grid=(7, 7))),
    "cross, oblong": (dict(length=35, channels=24, directions=4, states=2), dict(paths=CROSS, grid=(5, 7))),
    "cross, unmerged": (
        dict(length=35, channels=24, directions=4, optional="D"), dict(paths=CROSS, grid=(5, 7), merge=False)
    ),
    "cross with own x": (dict(length=12, directions=4, own=True), dict(paths=CROSS, grid=(3, 4))),
    "three columns": (dict(length=35, directions=3), dict(paths=(COLUMN, COLUMN.reversed(), COLUMN), grid=(5, 7))),
    "shared A": (dict(channels=20, shared="A"), dict(paths=BIDIRECTIONAL)),
    "shared D": (dict(channels=20, shared="D"), dict(paths=BIDIRECTIONAL)),
    "shared projections": (dict(channels=20, shared="dt_weight dt_bias"), dict(paths=BIDIRECTIONAL)),
    "shared x_dbl": (dict(channels=72, shared="x_dbl"), dict(paths=BIDIRECTIONAL)),
    "all shared": (
        dict(length=12, channels=20, directions=4, shared="x_dbl A dt_weight dt_bias D"),
        dict(paths=CROSS, grid=(3, 4)),
    ),
    "all shared, table": (
        dict(length=12, channels=20, directions=3, shared="x_dbl A dt_weight dt_bias D"),
        dict(paths=PADDED, grid=(3, 4)),
    ),
    "table": (dict(length=12, channels=40, directions=3), dict(paths=PADDED, grid=(3, 4))),
    "table, unmerged": (
        dict(length=12, channels=40, directions=3, optional="D"), dict(paths=PADDED, grid=(3, 4), merge=False)
    ),
    "table with own x": (
        dict(length=12, channels=5, directions=3, own=True), dict(paths=PADDED, grid=(3, 4))
    ),
    "repeated tokens": (dict(length=12, channels=17), dict(paths=REPEATED, grid=(3, 4))),
    "repeated tokens, own x": (dict(length=12, channels=17, own=True), dict(paths=REPEATED, grid=(3, 4))),
    "table beside a row": (
        dict(length=6, channels=17), dict(paths=(ScanPath.from_table([5, 0, 3, -1, 2, 2]), BACKWARD), grid=(2, 3))
    ),
    "more steps than tokens": (
        dict(length=4, channels=17, directions=1), dict(paths=(ScanPath.from_table([*range(4)] * 20 + [-1] * 9),))
    ),
    "one channel": (dict(channels=1), dict(paths=BIDIRECTIONAL)),
    "rank 1": (dict(channels=40, rank=1), dict(paths=BIDIRECTIONAL)),
    "rank 2": (dict(channels=40, rank=2, states=2), dict(paths=BIDIRECTIONAL)),
    "rank 12": (dict(channels=40, rank=12, states=1), dict(paths=BIDIRECTIONAL)),
    "10 states": (dict(channels=40, states=10), dict(paths=BIDIRECTIONAL)),
    "17 states": (dict(channels=40, states=17), dict(paths=BIDIRECTIONAL)),
    "no gate": (dict(channels=40, optional="D"), dict(paths=BIDIRECTIONAL)),
    "no D": (dict(channels=40, optional="z"), dict(paths=BIDIRECTIONAL)),
    "several tasks per image": (dict(batch=1, channels=200, states=2), dict(paths=BIDIRECTIONAL)),
    "batch of 33": (dict(batch=33, channels=3, length=5, states=2), dict(paths=BIDIRECTIONAL)),
}  # fmt: skip


@pytest.mark.parametrize(("inputs", "call"), CASES.values(), ids=CASES.keys())
def test_matches_reference(instruction_set: str, inputs: dict[str, Any], call: dict[str, Any]) -> None:
    assert_matches_reference(scan_paths, path_inputs(**inputs), **call)


@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("own", [False, True], ids=["one x", "own x"])
def test_layouts(instruction_set: str, layout: str, own: bool) -> None:
    tensors = with_layout(path_inputs(length=35, channels=40, directions=4, own=own), layout)
    assert_matches_reference(scan_paths, tensors, paths=CROSS, grid=(5, 7))


def test_views_of_one_projection(instruction_set: str) -> None:
    """x and z as the halves of one tensor, x with its direction axis outermost: what Vim's mixer hands over."""
    tensors = path_inputs(channels=40, own=True)
    halves = torch.randn(2, 49, 80)
    tensors["x"] = torch.randn(2, 2, 49, 40).permute(1, 2, 0, 3)
    tensors["z"] = halves[..., 40:]
    assert_matches_reference(scan_paths, tensors, paths=BIDIRECTIONAL)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("paths", "grid"), [(CROSS, (5, 7)), (CROSS, (35, 1)), ((FORWARD,) * 4, (1, 35))])
@pytest.mark.parametrize("layout", ["contiguous", "strided"])
def test_half_precision(instruction_set: str, dtype: torch.dtype, paths: Any, grid: Any, layout: str) -> None:
    tensors = with_layout(with_dtype(path_inputs(2, 35, 40, 4), dtype, "x x_dbl z"), layout)
    assert_matches_reference(scan_paths, tensors, tolerances=(HALF_TOLERANCE,) * 2, paths=paths, grid=grid)


def test_half_precision_parameters() -> None:
    tensors = with_dtype(path_inputs(channels=24), torch.bfloat16, "A dt_weight dt_bias D")
    assert_matches_reference(scan_paths, tensors, tolerances=(1e-5, HALF_TOLERANCE), paths=BIDIRECTIONAL)


def test_long_sequence() -> None:
    tensors = path_inputs(batch=1, channels=17, length=4097, states=2)
    assert_matches_reference(scan_paths, tensors, paths=BIDIRECTIONAL)


@pytest.mark.parametrize("merge", [True, False])
def test_expanded_gradient(merge: bool) -> None:
    """``sum().backward()`` hands over a gradient whose strides are all zero."""
    leaves = [t.requires_grad_() for t in path_inputs(channels=20, optional="D").values() if t is not None]
    found, truth = (
        torch.autograd.grad(
            scan_paths(*leaves, paths=BIDIRECTIONAL, merge=merge, backend=backend).sum(), leaves
        )
        for backend in ("cpu", "reference")
    )
    for one, other in zip(found, truth, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@st.composite
def paths_on_a_grid(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[ScanPath, ...]]:
    """A small grid and one to four paths over it: closed forms, or tables with pads, gaps and repeats."""
    height, width = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    count = draw(st.integers(1, 4))
    if draw(st.booleans()):
        return (height, width), tuple(draw(st.sampled_from(CROSS)) for _ in range(count))
    steps = draw(st.integers(1, 40))
    token = st.integers(-1, height * width - 1)
    tables = [draw(st.lists(token, min_size=steps, max_size=steps)) for _ in range(count)]
    return (height, width), tuple(ScanPath.from_table(table) for table in tables)


@given(
    drawn=paths_on_a_grid(),
    batch=st.integers(1, 3),
    channels=st.integers(1, 40),
    states=st.integers(1, 18),
    rank=st.integers(1, 12),
    own=st.booleans(),
    merge=st.booleans(),
    shared=st.sampled_from(["", "A", "x_dbl D", "dt_weight dt_bias"]),
    layout=st.sampled_from(LAYOUTS),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_shape(
    drawn: Any,
    batch: int,
    channels: int,
    states: int,
    rank: int,
    own: bool,
    merge: bool,
    shared: str,
    layout: str,
) -> None:
    grid, paths = drawn
    optional = "D z" if merge else "D"
    tensors = path_inputs(
        batch,
        grid[0] * grid[1],
        channels,
        len(paths),
        states,
        rank,
        own=own,
        shared=shared,
        optional=optional,
    )
    assert_matches_reference(scan_paths, with_layout(tensors, layout), paths=paths, grid=grid, merge=merge)


def test_merging_scatters_the_unmerged_outputs(backend: str) -> None:
    """Position by position: a token gets the sum of what every step that visits it returned."""
    tensors = path_inputs(length=12, directions=3, optional="D")
    steps = scan_paths(**tensors, paths=PADDED, grid=(3, 4), merge=False, backend=backend)  # type: ignore[arg-type]
    merged = scan_paths(**tensors, paths=PADDED, grid=(3, 4), backend=backend)  # type: ignore[arg-type]
    expected = torch.zeros_like(merged)
    for k, path in enumerate(PADDED):
        for t, token in enumerate(path.tokens(3, 4).tolist()):
            if token >= 0:
                expected[:, token] += steps[:, k, t]
    torch.testing.assert_close(merged, expected)
    assert torch.equal(merged[:, 3], torch.zeros_like(merged[:, 3]))  # token 3 is on no path


def test_gradient_is_the_adjoint(backend: str) -> None:
    """The op is linear in x, so ``<w, J x> = <J^T w, x>``: the gather and the scatter-add undo each other's order."""
    tensors = path_inputs(length=12, channels=24, directions=3)
    x = tensors["x"]
    assert x is not None
    x.requires_grad_()
    out = scan_paths(**tensors, paths=PADDED, grid=(3, 4), backend=backend)  # type: ignore[arg-type]
    weights = torch.randn_like(out)
    (pulled_back,) = torch.autograd.grad(out, x, weights)
    torch.testing.assert_close((out * weights).sum(), (pulled_back * x).sum(), rtol=1e-4, atol=1e-4)
