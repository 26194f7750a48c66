"""Errors of the native scans against float64, long and slow, where short polynomials and look-ups would show."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from vimzoo.ops import scan_paths
from vimzoo.ops.paths.path import BIDIRECTIONAL, CROSS

CASES = {
    "Vim, 197 steps": dict(),
    "4000 slow steps": dict(length=4000, steps=(1e-5, 1e-3)),
    "4000 steps whose exponents all round the same way": dict(length=4000, steps=(2e-2, 5e-2), rate=-0.7),
    "one state": dict(length=784, states=1, rank=6, grid=(28, 28)),
    "one state, 4000 slow steps": dict(length=4000, states=1, steps=(1e-5, 1e-3)),
    "ten states, odd rank": dict(length=4000, states=10, rank=5),
}
LIMITS = {
    torch.float32: (5e-6, 2.2e-7, 3e-8),
    torch.bfloat16: (6e-2, 1.7e-3, 1.2e-4),
    torch.float16: (8e-3, 2.2e-4, 2e-5),
}
"""Largest and root mean square difference, as shares of the standard deviation, and relative bias.

Those of 16 bits are what rounding an exact output gives."""


@cache
def case(name: str) -> tuple[tuple[Tensor, ...], dict[str, Any], Tensor]:
    """Inputs of ``scan_paths`` that all dtypes can hold, and its output in float64."""
    given = dict(length=197, states=16, rank=12, steps=(1e-3, 1e-1), rate=None, grid=None) | CASES[name]
    length, states, rank, (low, high) = (given[key] for key in ("length", "states", "rank", "steps"))
    paths = CROSS if given["grid"] else BIDIRECTIONAL
    K, channels = len(paths), 40
    draw = torch.Generator().manual_seed(0)
    x, z = (torch.randn(1, length, channels, generator=draw).bfloat16().float() for _ in range(2))
    rows = torch.randn(1, length, K, rank + 2 * states, generator=draw).bfloat16().float()
    A = -0.05 - torch.rand(K, channels, states, generator=draw) * 1.2 - torch.arange(states)
    if given["rate"]:
        A = torch.full_like(A, given["rate"])
    weight = (0.05 * (2 * torch.rand(K, channels, rank, generator=draw) - 1)).bfloat16().float()
    step = low * (high / low) ** torch.rand(K, channels, generator=draw)
    inputs = (x, rows, A, weight, step + torch.log(-torch.expm1(-step)), torch.ones(K, channels), z)
    options = {"paths": paths, "grid": given["grid"]}
    return inputs, options, scan_paths(*(t.double() for t in inputs), **options, backend="reference")


def error_of(
    inputs: tuple[Tensor, ...], dtype: torch.dtype, options: dict[str, Any], expected: Tensor
) -> Tensor:
    """Differences of the native scan with activations of a dtype, in standard deviations of the output."""
    x, rows, *parameters, z = inputs
    found = scan_paths(x.to(dtype), rows.to(dtype), *parameters, z.to(dtype), **options, backend="cpu")
    return (found.double() - expected) / expected.std()


@pytest.mark.parametrize("dtype", LIMITS, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("name", CASES)
def test_errors(name: str, dtype: torch.dtype, instruction_set: str) -> None:
    inputs, options, expected = case(name)
    error = error_of(inputs, dtype, options, expected)
    bias = (error * expected).sum() / expected.square().sum() * expected.std()
    found = [error.abs().max().item(), error.square().mean().sqrt().item(), abs(bias.item())]
    assert all(value <= limit for value, limit in zip(found, LIMITS[dtype], strict=True)), found


def test_weights_of_more_digits_than_bfloat16(instruction_set: str) -> None:
    """Products of bfloat16 are used only where they lose nothing: float32 weights keep their digits."""
    (x, rows, A, weight, bias, *others), options, _ = case("Vim, 197 steps")
    inputs = (x, rows, A, weight * 1.003, bias + 3, *others)
    expected = scan_paths(*(t.double() for t in inputs), **options, backend="reference")
    assert error_of(inputs, torch.bfloat16, options, expected).square().mean().sqrt() < 1.7e-3
