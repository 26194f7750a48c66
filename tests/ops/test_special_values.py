"""Values at the edges of float32: the native kernels answer what the reference answers, on every instruction set."""

import math

import pytest
import torch
from torch import Tensor

from vimzoo.ops import causal_conv1d, selective_scan

SHAPE = (1, 20, 40)


def scan(
    backend: str, delta: float = 0.1, rate: float = -1.0, u: Tensor | None = None, bias: float = 0.0
) -> Tensor:
    """A scan of constant steps and decay rates; softplus is applied."""
    u = torch.ones(SHAPE) if u is None else u
    A = torch.full((SHAPE[1], 3), rate)
    B = C = torch.ones(1, 3, SHAPE[2])
    delta_bias = torch.full((SHAPE[1],), bias)
    return selective_scan(u, torch.full(SHAPE, delta), A, B, C, None, None, delta_bias, True, backend=backend)  # type: ignore


@pytest.mark.parametrize(
    "case",
    [
        dict(delta=50.0),  # softplus is the identity
        dict(delta=-50.0),  # softplus is almost 0
        dict(delta=-200.0),
        dict(rate=-1e4),  # the state forgets at once
        dict(rate=-math.inf),
        dict(rate=-1e-6),  # the state never forgets
        dict(rate=0.5),  # an unstable system grows
        dict(bias=20.0),
    ],
    ids=str,
)
def test_extreme_steps_and_rates(case: dict[str, float], instruction_set: str) -> None:
    torch.testing.assert_close(scan("cpu", **case), scan("reference", **case), rtol=2e-5, atol=1e-30)


def test_overflow_is_infinity(instruction_set: str) -> None:
    growing = scan("cpu", delta=5.0, rate=1.0)
    assert growing[..., 0].isfinite().all() and growing[..., -1].eq(math.inf).all()
    assert torch.equal(growing.isinf(), scan("reference", delta=5.0, rate=1.0).isinf())


@pytest.mark.parametrize("argument", ["u", "rate", "delta"])
def test_nan_is_kept(argument: str, instruction_set: str) -> None:
    if argument == "u":
        u = torch.ones(SHAPE)
        u[0, 7, 11] = math.nan
        y = scan("cpu", u=u)
        assert y[0, 7, 11:].isnan().all() and y.isnan().sum() == SHAPE[2] - 11
    else:
        assert scan("cpu", **{argument: math.nan})[..., 1:].isnan().all()  # type: ignore[arg-type]


def test_gate_far_from_zero(instruction_set: str) -> None:
    """SiLU of large values: the convolution's activation shows it without a scan in between."""
    x = (
        torch.tensor([-1e4, -100.0, -88.0, -20.0, -1e-30, 0.0, 1e-30, 20.0, 100.0, 1e4])
        .view(1, 10, 1)
        .expand(1, 10, 3)
    )
    weight = torch.ones(1, 3, 1)
    native = causal_conv1d(x, weight, activation="silu", backend="cpu")
    # the native sigmoid ends at 2^-100, which is nothing against any x it multiplies
    torch.testing.assert_close(native[:, :, 0], torch.nn.functional.silu(x), rtol=1e-6, atol=1e-25)
