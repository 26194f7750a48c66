"""`scan_paths` from given states, and the states that it ends with: parts of a sequence equal the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_helpers import (
    HALF_TOLERANCE,
    Tensors,
    assert_matches_reference,
    in_float64,
    path_inputs,
    with_dtype,
)
from test_scan_paths import PADDED, REPEATED, paths_on_a_grid
from torch import Tensor

from vimzoo.exporting.lowering import DECOMPOSITIONS
from vimzoo.ops import BIDIRECTIONAL, CROSS, FORWARD, BackendError, ScanPath, path_arguments, scan_paths
from vimzoo.ops.scan.carried import carried_codes

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sequence": (dict(channels=40), dict(paths=BIDIRECTIONAL)),
    "cross, one state": (dict(length=35, channels=24, directions=4, states=1), dict(paths=CROSS, grid=(5, 7))),
    "cross, unmerged": (
        dict(length=35, channels=24, directions=4, optional="D"), dict(paths=CROSS, grid=(5, 7), merge=False)
    ),
    "own x, 17 states": (dict(channels=17, states=17, own=True), dict(paths=BIDIRECTIONAL)),
    "all shared": (dict(channels=20, shared="x_dbl A dt_weight dt_bias D"), dict(paths=BIDIRECTIONAL)),
    "pads": (dict(length=12, channels=20, directions=3), dict(paths=PADDED, grid=(3, 4))),
    "repeated tokens, unmerged": (
        dict(length=12, channels=17, optional=""), dict(paths=REPEATED, grid=(3, 4), merge=False)
    ),
    "states": (dict(channels=20, states=1, optional="", C=False), dict(paths=BIDIRECTIONAL)),
    "three states": (dict(length=12, states=3, optional="", C=False), dict(paths=REPEATED, merge=False)),
    "several tasks": (dict(batch=1, channels=200, states=2), dict(paths=BIDIRECTIONAL)),
    "an empty part": (dict(length=0), dict(paths=BIDIRECTIONAL)),
    "no images": (dict(batch=0), dict(paths=BIDIRECTIONAL)),
    "pads alone": (dict(length=0, directions=1), dict(paths=(ScanPath.from_table([-1] * 40),))),
}  # fmt: skip


@pytest.mark.usefixtures("needs_native")
@pytest.mark.parametrize(("inputs", "call"), CASES.values(), ids=CASES.keys())
def test_matches_reference(instruction_set: str, inputs: dict[str, Any], call: dict[str, Any]) -> None:
    tensors = path_inputs(**inputs, carried=True)
    assert_matches_reference(scan_paths, tensors, return_final_state=True, **call)


@pytest.mark.usefixtures("needs_native")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_states_in_float32(instruction_set: str, dtype: torch.dtype) -> None:
    tensors = with_dtype(path_inputs(2, 35, 40, 4, carried=True), dtype, "x x_dbl z")
    assert_matches_reference(
        scan_paths, tensors, tolerances=(HALF_TOLERANCE,) * 2, paths=CROSS, grid=(5, 7), return_final_state=True
    )  # fmt: skip
    call: Any = {**tensors, "paths": CROSS, "grid": (5, 7), "return_final_state": True}
    y, final = scan_paths(**call)
    assert y.dtype == dtype and final.dtype == torch.float32
    with torch.inference_mode():
        assert all(map(torch.equal, scan_paths(**call), (y, final)))
    with torch.autocast("cpu", dtype):
        y, final = scan_paths(**{**call, **path_inputs(2, 35, 40, 4, carried=True)})
    assert y.dtype == dtype and final.dtype == torch.float32


def in_parts(tensors: Tensors, cuts: list[int], **call: Any) -> tuple[Tensor, Tensor]:
    """The scan of a sequence part by part: the final state of each is the initial one of the next."""
    outputs, state = [], tensors["initial_state"]
    for first, last in zip([0, *cuts], [*cuts, None], strict=True):
        part = {
            n: t[:, first:last] if n in ("x", "x_dbl", "z") and t is not None else t
            for n, t in tensors.items()
        }
        y, state = scan_paths(**part | {"initial_state": state}, return_final_state=True, **call)
        outputs.append(y)
    assert state is not None
    return torch.cat(outputs, 1), state


@pytest.mark.parametrize("cuts", [[32], [5, 5, 40], [1, 2, 3]], ids=["a chunk", "an empty part", "tokens"])
def test_parts_equal_the_whole(cuts: list[int], backend: str) -> None:
    """Outputs, final state and all gradients, those of the initial state included."""
    tensors = in_float64(path_inputs(1, 49, 6, 1, states=2, carried=True)) if backend == "reference" else (
        path_inputs(1, 49, 6, 1, states=2, carried=True)
    )  # fmt: skip
    leaves = {name: t.requires_grad_() for name, t in tensors.items() if t is not None}
    call: dict[str, Any] = dict(paths=[FORWARD], backend=backend)
    whole = scan_paths(**leaves, return_final_state=True, **call)
    parts = in_parts(leaves, cuts, **call)  # type: ignore[arg-type]
    cotangents = [torch.randn_like(value) for value in whole]
    gradients = [torch.autograd.grad(out, list(leaves.values()), cotangents) for out in (whole, parts)]
    for found, expected in zip((*parts, *gradients[1]), (*whole, *gradients[0]), strict=True):
        torch.testing.assert_close(
            found, expected, rtol=1e-4, atol=1e-5 * float(expected.detach().abs().max())
        )


def test_paths_through_tables_go_on() -> None:
    """A strided path and one with pads, each cut in two, from the states in which the first halves end."""
    tokens = [[0, 2, 4, 6, 8, 10], [11, -1, 9, 9, -1, 3]]
    tensors = path_inputs(length=12, channels=7, optional="D", carried=True)
    halves, state = [], tensors.pop("initial_state")
    call: Any = dict(grid=(3, 4), return_final_state=True)
    whole, end = scan_paths(
        **tensors, paths=list(map(ScanPath.from_table, tokens)), initial_state=state, **call  # type: ignore[arg-type]
    )  # fmt: skip
    for part in (slice(4), slice(4, None)):
        paths = [ScanPath.from_table(path[part]) for path in tokens]
        y, state = scan_paths(**tensors, paths=paths, initial_state=state, **call)  # type: ignore[arg-type]
        halves.append(y)
    torch.testing.assert_close(sum(halves), whole)
    torch.testing.assert_close(state, end)


@given(
    drawn=paths_on_a_grid(), batch=st.integers(1, 3), channels=st.integers(1, 20), states=st.integers(1, 9),
    own=st.booleans(), merge=st.booleans(), C=st.booleans(),
)  # fmt: skip
@settings(max_examples=8, deadline=None, derandomize=True)
def test_any_shape(
    drawn: Any, batch: int, channels: int, states: int, own: bool, merge: bool, C: bool
) -> None:
    grid, paths = drawn
    optional = "" if not C else "D z" if merge else "D"
    tensors = path_inputs(
        batch, grid[0] * grid[1], channels, len(paths), states if C else 1, own=own, optional=optional, C=C,
        carried=True,
    )  # fmt: skip
    assert_matches_reference(
        scan_paths, tensors, paths=paths, grid=grid, merge=merge, return_final_state=True
    )


def test_float64_gradients_match_finite_differences() -> None:
    leaves = {
        name: t.requires_grad_()
        for name, t in in_float64(path_inputs(1, 6, 2, 2, states=2, rank=2, carried=True)).items()
        if t is not None
    }
    paths = (ScanPath("column"), ScanPath.from_table([1, -1, 5, 0, 0, 2]))

    def call(*values: Tensor) -> Any:
        named: Any = dict(zip(leaves, values, strict=True))
        return scan_paths(**named, paths=paths, grid=(2, 3), return_final_state=True)

    assert torch.autograd.gradcheck(call, tuple(leaves.values()), fast_mode=True)


@pytest.mark.parametrize("merge", [True, False])
def test_final_state_alone_has_gradients(merge: bool, backend: str) -> None:
    """The output may be unused, also where its shape is not that of x; without states given they start at 0."""
    tensors = path_inputs(length=12, directions=2, states=2, own=True, optional="D")
    leaves = {name: t.requires_grad_() for name, t in tensors.items() if t is not None}
    call: Any = dict(paths=BIDIRECTIONAL, merge=merge, return_final_state=True)
    found, expected = (
        torch.autograd.grad(
            scan_paths(**leaves, **call, backend=name)[1].square().sum(), leaves["x"]  # type: ignore[arg-type]
        )
        for name in (backend, "reference")
    )  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    zeros = torch.zeros(2, 2, 5, 2)
    y, state = scan_paths(**leaves, **call, backend=backend)  # type: ignore[arg-type]
    again, same = scan_paths(**leaves, **call, initial_state=zeros, backend=backend)  # type: ignore[arg-type]
    assert torch.equal(y, again) and torch.equal(state, same)


@pytest.mark.usefixtures("needs_native")
@pytest.mark.parametrize("initial", [True, False])
def test_registered_as_torch_expects(initial: bool) -> None:
    """Of torch's own checks those of schemas and fake kernels, forward and backward."""
    tensors = [t.requires_grad_() for t in path_inputs(carried=True).values() if t is not None]
    tensors = tensors if initial else [*tensors[:-1], None]  # type: ignore[list-item]
    settings = [[0, 1], None, 1, 49, True]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    call = [*tensors, *settings, True, "cpu"]
    torch.library.opcheck(torch.ops.vimzoo.scan_carried, call, test_utils=checks)
    y, last, states = torch.ops.vimzoo.scan_carried(*call)
    backward = [torch.randn_like(y), torch.randn_like(last), states, *tensors, *settings, "cpu"]
    torch.library.opcheck(torch.ops.vimzoo.scan_carried_backward, backward, test_utils=checks)


def test_scripted() -> None:
    tensors = path_inputs(carried=True)
    codes, table = path_arguments(BIDIRECTIONAL, 1, 49)
    arguments = [*tensors.values(), codes, table, 1, 49]
    found = torch.jit.script(carried_codes)(*arguments)
    assert all(map(torch.equal, found, carried_codes(*arguments)))  # type: ignore[arg-type]


def test_onnx_files_refuse_with_a_reason() -> None:
    class Layer(torch.nn.Module):
        def forward(self, x: Tensor, *others: Tensor) -> Any:
            return carried_codes(x, *others[:-1], None, None, others[-1], [0, 1], None, 1, 49)

    tensors = [t for t in path_inputs(optional="", carried=True).values() if t is not None]
    program = torch.export.export(Layer(), tuple(tensors))
    with pytest.raises(
        NotImplementedError, match="scan_carried: ONNX files hold no carried states; expected a scan"
    ):
        program.run_decompositions(DECOMPOSITIONS)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "states": (
        dict(initial_state=torch.zeros(2, 2, 5, 7)), ValueError,
        r"initial_state: expected \(2, 2, 5, 8\), got shape \(2, 2, 5, 7\)",
    ),
    "shared": (dict(initial_state=torch.zeros(2, 1, 5, 8)), ValueError, r"initial_state: expected \(2, 2, 5, 8\)"),
    "whole numbers": (
        dict(initial_state=torch.zeros(2, 2, 5, 8, dtype=torch.int64)), ValueError,
        "initial_state: expected a floating-point tensor, got",
    ),
    "no tensor": (dict(initial_state=0.0), TypeError, "initial_state: expected a tensor, got 0.0"),
    "no flag": (dict(return_final_state=1), TypeError, "return_final_state: expected True or False, got 1"),
    "backend": (dict(return_final_state=True, backend="cuda"), BackendError, "'cuda' does not implement scan_carried"),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        scan_paths(**path_inputs() | wrong, paths=BIDIRECTIONAL)
