"""Each refusal names the argument, what was expected and what came."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ops_helpers import Tensors, conv_inputs, norm_inputs, path_inputs, scan_inputs

from vimzoo.ops import (
    BIDIRECTIONAL,
    CROSS,
    FORWARD,
    ScanPath,
    add_norm,
    causal_conv1d,
    scan_paths,
    selective_scan,
)
from vimzoo.ops.runtime.abi import address

CALLS: dict[str, tuple[Callable[..., Any], Callable[[], Tensors], dict[str, Any]]] = {
    "selective_scan": (selective_scan, lambda: scan_inputs(2, 6, 7, 4, 2), {}),
    "scan_paths": (
        scan_paths,
        lambda: path_inputs(2, 6, 5, 2, 4, 3),
        {"paths": BIDIRECTIONAL, "grid": (2, 3)},
    ),
    "own x": (scan_paths, lambda: path_inputs(2, 6, 5, 2, 4, 3, own=True), {"paths": BIDIRECTIONAL}),
    "causal_conv1d": (causal_conv1d, lambda: conv_inputs(2, 7, 5, 2, 4), {"reverse": (False, True)}),
    "add_norm": (add_norm, lambda: norm_inputs(2, 7, 5), {}),
}

OUTSIDE, SHORT = ScanPath.from_table([0, 6]), ScanPath.from_table([0, 5])
CASES: list[tuple[str, str, Any, str]] = [
    # wrong rank
    ("selective_scan", "u", torch.zeros(2, 6), "(B, D, L)"),
    ("selective_scan", "A", torch.zeros(6), "(6, N)"),
    ("selective_scan", "B", torch.zeros(7), "(6, 4) or (2, 4, 7) or (2, any, 4, 7)"),
    ("scan_paths", "x", torch.zeros(6), "(B, L, D) or (B, L, 2, D)"),
    ("scan_paths", "x", torch.zeros(2, 6), "(B, L, D) or (B, L, 2, D)"),
    ("scan_paths", "A", torch.zeros(5, 4), "(2 or 1, 5, N)"),
    ("scan_paths", "dt_weight", torch.zeros(5), "(2 or 1, 5, R)"),
    ("scan_paths", "dt_bias", torch.zeros(5), "(2 or 1, 5)"),
    ("scan_paths", "D", torch.zeros(2, 5, 1), "(2 or 1, 5)"),
    ("scan_paths", "x_dbl", torch.zeros(2, 6, 11), "(2, 6, 2 or 1, R+2N = 11)"),
    ("causal_conv1d", "x", torch.zeros(7, 5), "(B, L, D)"),
    ("causal_conv1d", "weight", torch.zeros(5, 4), "(K, 5, W)"),
    ("add_norm", "x", torch.tensor(1.0), "(..., D)"),
    # sizes that do not match
    ("selective_scan", "delta", torch.zeros(2, 6, 8), "(2, 6, 7)"),
    ("selective_scan", "z", torch.zeros(1, 6, 7), "(2, 6, 7)"),
    ("selective_scan", "A", torch.zeros(5, 4), "(6, N)"),
    ("selective_scan", "B", torch.zeros(2, 2, 4, 8), "(6, 4) or (2, 4, 7) or (2, any, 4, 7)"),
    ("selective_scan", "C", torch.zeros(2, 2, 3, 7), "(6, 4) or (2, 4, 7) or (2, any, 4, 7)"),
    ("selective_scan", "B", torch.zeros(6, 5), "(6, 4) or (2, 4, 7) or (2, any, 4, 7)"),
    ("selective_scan", "B", torch.zeros(2, 4, 4, 7), "=B: expected a number of groups on axis 1 that divides 6"),
    ("selective_scan", "B", torch.zeros(2, 0, 4, 7), "=B: expected a number of groups on axis 1 that divides 6"),
    ("selective_scan", "C", torch.zeros(2, 3, 4, 7), "=C: expected as many groups as B, 2, got 3"),
    ("selective_scan", "D", torch.zeros(5), "(6,)"),
    ("selective_scan", "delta_bias", torch.zeros(6, 1), "(6,)"),
    ("scan_paths", "x_dbl", torch.zeros(2, 6, 2, 12), "(2, 6, 2 or 1, R+2N = 11)"),
    ("scan_paths", "x_dbl", torch.zeros(2, 6, 3, 11), "(2, 6, 2 or 1, R+2N = 11)"),
    ("scan_paths", "A", torch.zeros(3, 5, 4), "(2 or 1, 5, N)"),
    ("scan_paths", "dt_weight", torch.zeros(3, 5, 3), "(2 or 1, 5, R)"),
    ("scan_paths", "dt_bias", torch.zeros(2, 6), "(2 or 1, 5)"),
    ("scan_paths", "D", torch.zeros(4, 5), "(2 or 1, 5)"),
    ("scan_paths", "z", torch.zeros(2, 6, 6), "(2, 6, 5)"),
    ("scan_paths", "grid", (2, 4), "=grid: expected (H, W) with H * W = 6, got (2, 4)"),
    ("scan_paths", "grid", (-2, -3), "=grid: expected (H, W) with H * W = 6, got (-2, -3)"),
    ("scan_paths", "grid", (2.0, 3.0), "=grid: expected (H, W) with H * W = 6, got (2.0, 3.0)"),
    ("scan_paths", "grid", 6, "=grid: expected (H, W) with H * W = 6, got 6"),
    ("own x", "paths", CROSS, "=x: expected (2, 6, D) or (2, 6, 4, D), got shape (2, 6, 2, 5)"),
    ("causal_conv1d", "weight", torch.zeros(2, 6, 4), "(2, 5, W)"),
    ("causal_conv1d", "weight", torch.zeros(2, 5, 0), "=weight: expected (K, D, W), each at least 1"),
    ("causal_conv1d", "bias", torch.zeros(5), "(2, 5)"),
    ("causal_conv1d", "reverse", (True,), "=reverse: expected 2 values, one per direction of weight, got 1"),
    ("add_norm", "weight", torch.zeros(6), "(5,)"),
    ("add_norm", "bias", torch.zeros(1, 5), "(5,)"),
    ("add_norm", "residual", torch.zeros(2, 1, 5), "(2, 7, 5)"),
    # dtypes that do not match
    ("selective_scan", "u", torch.zeros(2, 6, 7, dtype=torch.int64), "a floating-point tensor"),
    ("selective_scan", "delta", torch.zeros(2, 6, 7).half(), "the dtype of u, torch.float32"),
    ("selective_scan", "z", torch.zeros(2, 6, 7).double(), "the dtype of u, torch.float32"),
    ("selective_scan", "B", torch.zeros(6, 4).to(torch.complex64), "=B: expected complex exactly when A is"),
    ("scan_paths", "x", torch.zeros(2, 6, 5, dtype=torch.int32), "a floating-point tensor"),
    ("scan_paths", "x_dbl", torch.zeros(2, 6, 2, 11).bfloat16(), "the dtype of x, torch.float32"),
    ("scan_paths", "z", torch.zeros(2, 6, 5).half(), "the dtype of x, torch.float32"),
    ("scan_paths", "A", torch.zeros(2, 5, 4).to(torch.complex64), "a floating-point tensor"),
    ("causal_conv1d", "x", torch.zeros(2, 7, 5, dtype=torch.int64), "a floating-point tensor"),
    ("add_norm", "x", torch.zeros(2, 7, 5, dtype=torch.int64), "a floating-point tensor"),
    # values
    ("scan_paths", "paths", (), "=paths: expected one or more of ScanPath, got ()"),
    ("scan_paths", "paths", ("row", "row"), "=paths: expected one or more of ScanPath, got ('row', 'row')"),
    ("scan_paths", "paths", (FORWARD, OUTSIDE), "=paths: a table names tokens outside 0..5 of a 2 x 3 grid"),
    ("scan_paths", "paths", (FORWARD, SHORT), "=paths: all need the same number of steps, got [6, 2]"),
    ("scan_paths", "merge", False, "=z: the gate multiplies the merged output; expected None with merge=False"),
    ("causal_conv1d", "activation", "gelu", "=activation: expected 'silu' or None, got 'gelu'"),
    ("add_norm", "eps", 0.0, "=eps: expected a positive number, got 0.0"),
    ("add_norm", "eps", float("nan"), "=eps: expected a positive number, got nan"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "argument", "value", "expected"), CASES)
def test_refused_with_a_reason(name: str, argument: str, value: Any, expected: str) -> None:
    """``expected`` is what the message says was expected, or after an equals sign the whole message."""
    function, make, settings = CALLS[name]
    arguments = {**make(), **settings}
    function(**arguments)  # right before, so that the wrong argument alone is to blame
    message = expected.removeprefix("=")
    if message == expected:
        message = f"{argument}: expected {expected}, got shape {tuple(value.shape)} of {value.dtype}"
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        function(**{**arguments, argument: value})


def test_checks_hold_while_autocasting() -> None:
    """Autocast may mix the dtypes that it will make equal, but not float64, which it leaves."""
    tensors = path_inputs(2, 6, 5)
    tensors["z"] = torch.zeros(2, 6, 5, dtype=torch.float64)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ValueError, match=r"^z: expected the dtype of x"),
    ):
        scan_paths(**tensors, paths=BIDIRECTIONAL)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["x", "weight", "bias"])
def test_what_is_no_tensor_is_named(name: str) -> None:
    with pytest.raises(TypeError, match=rf"{name}: expected a tensor, got 3.5 of type float"):
        causal_conv1d(**conv_inputs(2, 7, 5, 1, 4) | {name: 3.5})


@pytest.mark.parametrize(
    ("name", "argument", "value", "expected"),
    [
        ("selective_scan", "delta_softplus", "yes", "True or False"),
        ("selective_scan", "return_last_state", 1, "True or False"),
        ("selective_scan", "backend", 3, "a name or None"),
        ("scan_paths", "merge", "no", "True or False"),
        ("causal_conv1d", "reverse", 5, "a sequence of True and False"),
        ("causal_conv1d", "activation", 3, "a name or None"),
        ("add_norm", "eps", "small", "a number"),
        ("add_norm", "rms", "yes", "True or False"),
    ],
)
def test_settings_of_other_types_are_named(name: str, argument: str, value: Any, expected: str) -> None:
    function, make, settings = CALLS[name]
    message = f"{argument}: expected {expected}, got {value!r} of type {type(value).__name__}"
    with pytest.raises(TypeError, match="^" + re.escape(message)):
        function(**{**make(), **settings, argument: value})


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_tensors_elsewhere_are_named(name: str) -> None:
    """A pointer to nowhere must not reach C, whichever way the operator is called."""
    inputs = conv_inputs(2, 7, 5, 1, 4)
    inputs[name] = inputs[name].to("meta")
    with pytest.raises(
        ValueError, match=rf"{name}: expected a tensor on the device of x, cpu, got one on meta"
    ):
        causal_conv1d(**inputs)
    with pytest.raises(ValueError, match="expected all on cpu, got one on meta"):
        address(inputs[name])
