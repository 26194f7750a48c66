"""`scan_paths` without C: the states as output, on every backend, for one and several states of a channel."""

from __future__ import annotations

from pathlib import Path
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
from torch import Tensor, nn

from vimzoo import exporting
from vimzoo.ops import BIDIRECTIONAL, CROSS, ScanPath, path_arguments, scan_codes, scan_paths


def state_inputs(*args: Any, states: int = 1, **kwargs: Any) -> Tensors:
    """Inputs of `scan_paths` without C, whose output is the states."""
    return path_inputs(*args, states=states, optional="", C=False, **kwargs)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sequence": (dict(channels=40), dict(paths=BIDIRECTIONAL)),
    "cross": (dict(length=35, channels=24, directions=4), dict(paths=CROSS, grid=(5, 7))),
    "cross, unmerged": (dict(length=35, channels=24, directions=4), dict(paths=CROSS, grid=(5, 7), merge=False)),
    "own x": (dict(channels=17, own=True), dict(paths=BIDIRECTIONAL)),
    "all shared": (dict(channels=20, shared="x_dbl A dt_weight dt_bias"), dict(paths=BIDIRECTIONAL)),
    "pads": (dict(length=12, channels=20, directions=3), dict(paths=PADDED, grid=(3, 4))),
    "pads, unmerged": (dict(length=12, channels=20, directions=3), dict(paths=PADDED, grid=(3, 4), merge=False)),
    "repeated tokens": (dict(length=12, channels=17), dict(paths=REPEATED, grid=(3, 4))),
    "strided": (
        dict(length=12, channels=9), dict(paths=(ScanPath.from_table([0, 2, 4]), ScanPath.from_table([9, 7, 5])))
    ),
    "three states": (dict(channels=9, states=3), dict(paths=BIDIRECTIONAL)),
    "three states, unmerged": (dict(channels=9, states=3, length=12), dict(paths=REPEATED, merge=False)),
}  # fmt: skip


@pytest.mark.usefixtures("needs_native")
@pytest.mark.parametrize(("inputs", "call"), CASES.values(), ids=CASES.keys())
def test_matches_reference(instruction_set: str, inputs: dict[str, Any], call: dict[str, Any]) -> None:
    assert_matches_reference(scan_paths, state_inputs(**inputs), **call)


@pytest.mark.usefixtures("needs_native")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(instruction_set: str, dtype: torch.dtype) -> None:
    tensors = with_dtype(state_inputs(2, 35, 40, 4), dtype, "x x_dbl")
    assert_matches_reference(scan_paths, tensors, tolerances=(HALF_TOLERANCE,) * 2, paths=CROSS, grid=(5, 7))


@pytest.mark.parametrize(("inputs", "call"), CASES.values(), ids=CASES.keys())
def test_is_the_output_for_a_C_of_ones(inputs: dict[str, Any], call: dict[str, Any]) -> None:
    """Of N states, each is the scan with that state alone; bit for bit."""
    tensors = state_inputs(**inputs)
    states, A, x_dbl = scan_paths(**tensors, **call), tensors["A"], tensors["x_dbl"]  # type: ignore[arg-type]
    assert A is not None and x_dbl is not None
    N = A.shape[-1]
    assert states.shape[-1] == (inputs["channels"] if N == 1 else N)
    for n in range(N):
        rows = torch.cat(
            [x_dbl[..., :-N], x_dbl[..., -N:][..., n : n + 1], torch.ones_like(x_dbl[..., :1])], -1
        )
        alone = {**tensors, "x_dbl": rows, "A": A[..., n : n + 1]}
        found = states if N == 1 else states[..., n]
        assert torch.equal(found, scan_paths(**alone, **call))  # type: ignore[arg-type]
    with torch.inference_mode():
        assert torch.equal(states, scan_paths(**tensors, **call))  # type: ignore[arg-type]


def test_several_states_give_the_scan_when_multiplied_by_C(backend: str) -> None:
    full = path_inputs(length=35, channels=6, directions=4, states=3, optional="")
    assert full["x_dbl"] is not None
    rows, C = full["x_dbl"].split([3 + 3, 3], -1)
    settings: dict[str, Any] = dict(paths=CROSS, grid=(5, 7), backend=backend)
    unmerged = scan_paths(**{**full, "x_dbl": rows}, **settings, merge=False)  # type: ignore[arg-type]
    expected = scan_paths(**full, **settings, merge=False)  # type: ignore[arg-type]
    for k, path in enumerate(CROSS):
        y = (unmerged[:, k] * C[:, path.tokens(5, 7), k].unsqueeze(-2)).sum(-1)
        torch.testing.assert_close(y, expected[:, k], rtol=1e-4, atol=1e-5)


@given(
    drawn=paths_on_a_grid(),
    batch=st.integers(1, 3),
    channels=st.integers(1, 20),
    states=st.integers(1, 3),
    rank=st.integers(1, 5),
    own=st.booleans(),
    merge=st.booleans(),
)
@settings(max_examples=8, deadline=None, derandomize=True)
def test_any_shape(
    drawn: Any, batch: int, channels: int, states: int, rank: int, own: bool, merge: bool
) -> None:
    grid, paths = drawn
    length = grid[0] * grid[1]
    tensors = state_inputs(batch, length, channels, len(paths), states=states, rank=rank, own=own)
    assert_matches_reference(scan_paths, tensors, paths=paths, grid=grid, merge=merge)


@pytest.mark.parametrize("states", [1, 2])
def test_float64_gradients_match_finite_differences(states: int) -> None:
    tensors = in_float64(state_inputs(1, 6, 2, 3, states=states, rank=2))
    leaves = {name: t.requires_grad_() for name, t in tensors.items() if t is not None}

    def call(*values: Tensor) -> Tensor:
        return scan_paths(**dict(zip(leaves, values, strict=True)), paths=PADDED_SIX, grid=(2, 3))

    assert torch.autograd.gradcheck(call, tuple(leaves.values()), fast_mode=True)


PADDED_SIX = (
    ScanPath("column"), ScanPath.from_table([1, -1, 5, 0, 0, 2]), ScanPath.from_table([-1, -1, 3, 2, 4, 4])
)  # fmt: skip


class Layer(nn.Module):
    """The states of a map ``(B, L, D + R + N)``, whose channels are ``[x | dt | B]``."""

    def __init__(self, states: int) -> None:
        super().__init__()
        tensors = state_inputs(channels=5, directions=2, states=states)
        names = ("A", "dt_weight", "dt_bias")
        self.A, self.dt_weight, self.dt_bias = (nn.Parameter(tensors[name]) for name in names)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor) -> Tensor:
        codes, table = path_arguments((CROSS[0], CROSS[3]), 3, 4)
        return scan_codes(
            tokens[..., :5], tokens[..., 5:].unsqueeze(2), self.A, self.dt_weight, self.dt_bias, None, None,
            codes=codes, table=table, height=3, width=4,
        )  # fmt: skip


@pytest.mark.parametrize("states", [1, 2])
def test_traced(states: int) -> None:
    layer = Layer(states).eval()
    tokens = torch.randn(3, 12, 8 + states)
    assert torch.equal(torch.jit.trace(layer, tokens[:1])(tokens), layer(tokens))  # type: ignore[no-untyped-call]


def test_exported_in_standard_operators(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra vimzoo[export]")
    layer, tokens = Layer(states=1).eval(), torch.randn(3, 12, 9)
    expected = layer(tokens).detach()
    exporting.save_onnx(exporting.to_program(layer, tokens[:2]), tmp_path / "states.onnx", {})
    torch.testing.assert_close(exporting.load(tmp_path / "states.onnx", "onnx")(tokens), expected)


@pytest.mark.usefixtures("needs_native")
def test_registered_as_torch_expects() -> None:
    """Of torch's own checks those that depend on the shapes: fake kernels of the forward and the backward operator."""
    tensors = [t.requires_grad_() for t in state_inputs().values() if t is not None]
    settings = [None, None, [0, 1], None, 1, 49, True]
    call = [*tensors, *settings, True, "cpu"]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.vimzoo.scan_paths, call, test_utils=checks)
    y, states = torch.ops.vimzoo.scan_paths(*call)
    backward = [torch.randn_like(y), states, *tensors, *settings, "cpu"]
    torch.library.opcheck(torch.ops.vimzoo.scan_paths_backward, backward, test_utils=checks)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "width": (dict(x_dbl=torch.zeros(2, 49, 2, 6)), r"x_dbl: expected \(2, 49, 2 or 1, R\+2N = 5\), got shape \(2, 49"),
    "D": (dict(D=torch.ones(2, 5)), "D: x_dbl has no C, so the output is the states; expected None, got a tensor"),
    "z": (dict(z=torch.ones(2, 49, 5)), "z: x_dbl has no C, so the output is the states; expected None"),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scan_paths(**state_inputs() | wrong, paths=BIDIRECTIONAL)
