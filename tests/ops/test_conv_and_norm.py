"""`causal_conv1d` and `add_norm`: the native backend against the float64 reference, forward and all gradients."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_helpers import (
    HALF_TOLERANCE,
    LAYOUTS,
    assert_matches_reference,
    conv_inputs,
    error,
    norm_inputs,
    with_dtype,
    with_layout,
)

from vimzoo.ops import add_norm, causal_conv1d

pytestmark = pytest.mark.usefixtures("needs_native")
BOTH = (False, True)


@pytest.mark.parametrize("length", [1, 3, 49, 197])
@pytest.mark.parametrize("channels", [1, 5, 16, 72])
@pytest.mark.parametrize("reverse", [(False,), (True,), BOTH, (True, True, False)], ids=str)
@pytest.mark.parametrize("activation", ["silu", None])
def test_conv_matches_reference(
    instruction_set: str, length: int, channels: int, reverse: tuple[bool, ...], activation: str | None
) -> None:
    tensors = conv_inputs(length=length, channels=channels, directions=len(reverse))
    assert_matches_reference(causal_conv1d, tensors, reverse=reverse, activation=activation)


@pytest.mark.parametrize("taps", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("bias", [True, False])
def test_conv_taps(instruction_set: str, taps: int, bias: bool) -> None:
    """Any number of taps, also more than there are tokens."""
    for length in (2, 37):
        tensors = conv_inputs(length=length, channels=24, taps=taps, bias=bias)
        assert_matches_reference(causal_conv1d, tensors, reverse=BOTH, activation="silu")


def test_conv_with_more_taps_than_the_kernel_holds() -> None:
    """The reference takes over, silently to the caller."""
    tensors = conv_inputs(taps=21)
    found = causal_conv1d(**tensors, reverse=BOTH)  # type: ignore[arg-type]
    expected = causal_conv1d(**tensors, reverse=BOTH, backend="reference")  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_conv_layouts_and_dtypes(instruction_set: str, layout: str, dtype: torch.dtype) -> None:
    tensors = with_layout(with_dtype(conv_inputs(channels=40), dtype, "x"), layout)
    tolerances = (5e-6, 2e-5) if dtype == torch.float32 else (HALF_TOLERANCE,) * 2
    assert_matches_reference(causal_conv1d, tensors, tolerances=tolerances, reverse=BOTH, activation="silu")


def test_conv_long_and_half_of_a_projection() -> None:
    tensors = conv_inputs(batch=1, length=4097, channels=24)
    tensors["x"] = torch.randn(1, 4097, 48)[..., :24]
    assert_matches_reference(causal_conv1d, tensors, reverse=BOTH, activation="silu")


def test_conv_returns_dense_directions() -> None:
    out = causal_conv1d(**conv_inputs(), reverse=BOTH)  # type: ignore[arg-type]
    assert all(out[:, :, k].is_contiguous() for k in range(2))


@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 70),
    channels=st.integers(1, 40),
    taps=st.integers(1, 6),
    reverse=st.lists(st.booleans(), min_size=1, max_size=3),
    layout=st.sampled_from(LAYOUTS),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_conv_any_shape(
    batch: int, length: int, channels: int, taps: int, reverse: list[bool], layout: str
) -> None:
    tensors = with_layout(conv_inputs(batch, length, channels, len(reverse), taps), layout)
    assert_matches_reference(causal_conv1d, tensors, reverse=reverse, activation="silu")


@pytest.mark.parametrize("rms", [True, False], ids=["rms", "layer"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("residual", [True, False], ids=["residual", "first"])
@pytest.mark.parametrize("shape", [(1,), (5,), (3, 40), (2, 7, 72), (2, 1, 17), (1, 197, 192)], ids=str)
def test_norm_matches_reference(
    instruction_set: str, shape: tuple[int, ...], residual: bool, bias: bool, rms: bool
) -> None:
    tensors = norm_inputs(*shape, residual=residual, bias=bias)
    # a mean over one or five channels magnifies rounding by 1 / sqrt(eps) where the spread is small
    tolerances = (5e-6, 2e-5) if shape[-1] > 5 else (2e-5, 1e-3)
    assert_matches_reference(add_norm, tensors, tolerances=tolerances, rms=rms, eps=1e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_norm_layouts(instruction_set: str, layout: str) -> None:
    assert_matches_reference(add_norm, with_layout(norm_inputs(), layout))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("narrow", ["x", "x residual", "residual", "x residual weight bias"])
@pytest.mark.parametrize("wide_stream", [True, False])
def test_norm_half_precision(dtype: torch.dtype, narrow: str, wide_stream: bool) -> None:
    tensors = with_dtype(norm_inputs(), dtype, narrow)
    out, stream = add_norm(**tensors, residual_in_fp32=wide_stream)  # type: ignore[arg-type]
    assert tensors["x"] is not None and out.dtype == tensors["x"].dtype
    assert stream.dtype == (torch.float32 if wide_stream or "residual" not in narrow else dtype)
    backend = "cpu"
    if narrow == "residual" and not wide_stream:  # the one mixture that is left to the reference
        backend = "reference"
    assert_matches_reference(
        add_norm, tensors, tolerances=(HALF_TOLERANCE,) * 2, backend=backend, residual_in_fp32=wide_stream
    )


@pytest.mark.parametrize("instruction", ["native"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norm_half_precision_instruction_sets(
    instruction_set: str, dtype: torch.dtype, instruction: str
) -> None:
    tensors = with_dtype(norm_inputs(3, 41), dtype, "x residual")
    assert_matches_reference(add_norm, tensors, tolerances=(HALF_TOLERANCE,) * 2)


@pytest.mark.parametrize("used", ["norm", "stream"])
def test_norm_gradient_through_one_output(used: str) -> None:
    def one_output(**kwargs: Any) -> torch.Tensor:
        return add_norm(**kwargs)[used == "stream"]

    tensors = norm_inputs()
    leaves = {n: t.requires_grad_() for n, t in tensors.items() if t is not None}
    found, truth = (
        torch.autograd.grad(
            one_output(**leaves, backend=backend).square().sum(), list(leaves.values()), allow_unused=True
        )
        for backend in ("cpu", "reference")
    )
    for name, one, other in zip(leaves, found, truth, strict=True):
        if used == "stream" and name in ("weight", "bias"):
            assert one is None and other is None
        else:
            assert error(one, other) < 2e-5, name


def test_norm_of_large_and_constant_rows() -> None:
    """A mean far from zero must not swallow the variance; a constant row has none."""
    tensors = norm_inputs(4, 64, residual=False)
    assert tensors["x"] is not None
    tensors["x"] = tensors["x"] + 1000.0
    assert_matches_reference(add_norm, tensors, tolerances=(1e-3, 1e-2), rms=False)
    tensors["x"] = torch.full((4, 64), 3.0)
    out, _ = add_norm(**tensors, rms=False, backend="cpu")  # type: ignore[arg-type]
    torch.testing.assert_close(out, tensors["bias"].expand(4, 64))  # type: ignore[union-attr]
