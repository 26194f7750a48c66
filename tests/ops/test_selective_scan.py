"""`selective_scan`: the native backend against the float64 reference, forward and all gradients."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_helpers import (
    HALF_TOLERANCE,
    LAYOUTS,
    assert_matches_reference,
    scan_inputs,
    with_dtype,
    with_layout,
)

from vimzoo.ops import selective_scan

pytestmark = pytest.mark.usefixtures("needs_native")
ACTIVATIONS = "u delta B C z"

CASES: dict[str, dict[str, Any]] = {
    "one step": dict(length=1),
    "three steps": dict(length=3, channels=72, states=16),
    "one whole chunk": dict(length=32, channels=16),
    "one more than a chunk": dict(length=33, channels=17),
    "image of 224": dict(batch=1, length=197, channels=40, states=16),
    "one channel": dict(channels=1),
    "72 channels in 2 groups": dict(channels=72, groups=2),
    "5 groups of 1": dict(channels=5, groups=5),
    "40 channels in 5 groups": dict(channels=40, groups=5, states=10),
    "no group axis": dict(channels=40, groups=0),
    "C shared by B's groups": dict(channels=20, groups=4, C_groups=0),
    "B shared by C's groups": dict(channels=20, groups=0, C_groups=4),
    "1 state": dict(channels=40, states=1, groups=2),
    "2 states": dict(channels=40, states=2),
    "10 states": dict(channels=17, states=10),
    "17 states": dict(channels=17, states=17),
    "64 states": dict(channels=5, states=64, length=35),
    "nothing optional": dict(channels=40, optional=""),
    "only z": dict(channels=40, optional="z"),
    "only D": dict(channels=40, optional="D"),
    "only a bias": dict(channels=40, optional="delta_bias"),
    "batch of 9": dict(batch=9, channels=3, length=5),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("softplus", [True, False], ids=["softplus", "plain"])
def test_matches_reference(instruction_set: str, case: dict[str, Any], softplus: bool) -> None:
    tensors = scan_inputs(**case)
    if not softplus:
        tensors["delta_bias"] = (
            None if tensors["delta_bias"] is None else tensors["delta_bias"] + 0.5
        )  # stays decaying
    assert_matches_reference(selective_scan, tensors, delta_softplus=softplus, return_last_state=True)


@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("groups", [0, 2])
def test_layouts(instruction_set: str, layout: str, groups: int) -> None:
    tensors = with_layout(scan_inputs(channels=40, length=50, groups=groups), layout)
    assert_matches_reference(selective_scan, tensors, delta_softplus=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_precision(instruction_set: str, dtype: torch.dtype, layout: str) -> None:
    tensors = with_layout(with_dtype(scan_inputs(channels=40, groups=2), dtype, ACTIVATIONS), layout)
    tolerances = (HALF_TOLERANCE, HALF_TOLERANCE)
    assert_matches_reference(selective_scan, tensors, tolerances=tolerances, delta_softplus=True)


@pytest.mark.parametrize("names", ["B C", "u delta z", "A D delta_bias"])
def test_mixed_precision(names: str) -> None:
    """B and C may be narrower or wider than u; narrow parameters are widened and get narrow gradients."""
    tensors = with_dtype(scan_inputs(channels=24), torch.bfloat16, names)
    found = selective_scan(**tensors, delta_softplus=True, backend="cpu")  # type: ignore[arg-type]
    assert isinstance(found, torch.Tensor) and tensors["u"] is not None and found.dtype == tensors["u"].dtype
    assert_matches_reference(selective_scan, tensors, tolerances=(HALF_TOLERANCE,) * 2, delta_softplus=True)


def test_long_sequence() -> None:
    tensors = scan_inputs(batch=1, channels=17, length=4097, states=4)
    assert_matches_reference(selective_scan, tensors, delta_softplus=True, return_last_state=True)


def test_large_steps_and_inputs() -> None:
    """Step sizes where softplus is the identity or nearly zero, and decays that vanish."""
    tensors = scan_inputs(channels=20)
    tensors["delta"] = torch.linspace(-30, 60, 2 * 20 * 49).view(2, 20, 49)[:, torch.randperm(20)]
    assert_matches_reference(selective_scan, tensors, delta_softplus=True)


def test_gradient_through_the_last_state_alone(instruction_set: str) -> None:
    tensors = scan_inputs(channels=20, groups=2, optional="delta_bias")

    def last_state(**kwargs: Any) -> torch.Tensor:
        return selective_scan(**kwargs, delta_softplus=True, return_last_state=True)[1]

    leaves = {n: None if t is None else t.requires_grad_() for n, t in tensors.items()}
    wanted = [leaf for name, leaf in leaves.items() if leaf is not None and name != "C"]
    found, truth = (
        torch.autograd.grad(last_state(**leaves, backend=backend).square().sum(), wanted)
        for backend in ("cpu", "reference")
    )
    for one, other in zip(found, truth, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def test_expanded_gradient() -> None:
    """``sum().backward()`` hands over a gradient whose strides are all zero."""
    leaves = [t.requires_grad_() for t in scan_inputs(channels=20).values() if t is not None]
    found, truth = (
        torch.autograd.grad(selective_scan(*leaves, delta_softplus=True, backend=backend).sum(), leaves)  # type: ignore
        for backend in ("cpu", "reference")
    )
    for one, other in zip(found, truth, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@given(
    batch=st.integers(1, 3),
    per_group=st.integers(1, 37),
    groups=st.integers(1, 3),
    length=st.integers(1, 70),
    states=st.integers(1, 18),
    layout=st.sampled_from(LAYOUTS),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_any_shape(batch: int, per_group: int, groups: int, length: int, states: int, layout: str) -> None:
    tensors = with_layout(scan_inputs(batch, per_group * groups, length, states, groups), layout)
    assert_matches_reference(selective_scan, tensors, delta_softplus=True, return_last_state=True)


@pytest.mark.parametrize("constant", ["B", "C", "both"])
def test_constant_matrices_take_the_reference(constant: str) -> None:
    tensors = scan_inputs(
        groups=None if constant != "C" else 1, C_groups=None if constant != "B" else 1, optional="D"
    )
    found = selective_scan(**tensors)  # type: ignore[arg-type]
    forced = selective_scan(**tensors, backend="reference")  # type: ignore[arg-type]
    assert torch.equal(found, forced)  # type: ignore[arg-type]


def test_complex_transition_matrix() -> None:
    """Complex A with constant complex B and C, against the sum over modes written out."""
    tensors = scan_inputs(batch=1, channels=2, length=6, states=3, groups=None, optional="")
    A, B, C = (torch.complex(tensors[n], torch.randn(2, 3)) for n in "ABC")  # type: ignore[arg-type]
    u, delta = tensors["u"], tensors["delta"]
    assert u is not None and delta is not None
    found = selective_scan(u, delta, A, B, C)
    elapsed = delta.cumsum(-1)
    expected = torch.zeros(1, 2, 6)
    for t in range(6):
        for s in range(t + 1):
            decay = torch.exp((elapsed[0, :, t] - elapsed[0, :, s])[:, None] * A)
            expected[0, :, t] += 2 * (C * decay * B).sum(1).real * delta[0, :, s] * u[0, :, s]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
