"""The reference itself, against the papers' formulas on Python numbers: one scalar at a time, nothing vectorised."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ops_helpers import conv_inputs, in_float64, norm_inputs, path_inputs, scan_inputs

from vimzoo.ops import BIDIRECTIONAL, CROSS, ScanPath, add_norm, causal_conv1d, scan_paths, selective_scan

TABLE = (ScanPath.from_table([4, -1, 0, 4, -1, 2]), ScanPath.from_table([-1, 5, 5, 1, 0, -1]))


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def silu(value: float) -> float:
    return value / (1 + math.exp(-value))


def scan(steps: list[tuple[float, float, list[float], list[float]]], A: list[float]) -> list[float]:
    """One channel: ``(u, delta, B, C)`` per step -> ``<C, h>`` per step."""
    state = [0.0] * len(A)
    outputs = []
    for u, delta, B, C in steps:
        state = [math.exp(delta * a) * h + delta * b * u for a, h, b in zip(A, state, B, strict=True)]
        outputs.append(sum(c * h for c, h in zip(C, state, strict=True)))
    return outputs


def lists(tensors: dict[str, torch.Tensor | None]) -> Any:
    """Nested Python lists by name, absent tensors ``None``."""
    return {name: None if t is None else t.tolist() for name, t in tensors.items()}


@pytest.mark.parametrize("use_softplus", [True, False])
@pytest.mark.parametrize("optional", ["D z delta_bias", ""])
def test_selective_scan(use_softplus: bool, optional: str) -> None:
    batch, channels, length, groups = 2, 6, 5, 3
    tensors = in_float64(scan_inputs(batch, channels, length, 2, groups, optional=optional))
    found = selective_scan(**tensors, delta_softplus=use_softplus, backend="reference")  # type: ignore[arg-type]
    v = lists(tensors)
    for b in range(batch):
        for d in range(channels):
            g = d // (channels // groups)
            steps = []
            for t in range(length):
                delta = v["delta"][b][d][t] + (v["delta_bias"][d] if optional else 0.0)
                delta = softplus(delta) if use_softplus else delta
                B, C = ([v[name][b][g][n][t] for n in range(2)] for name in "BC")
                steps.append((v["u"][b][d][t], delta, B, C))
            for t, y in enumerate(scan(steps, v["A"][d])):
                if optional:
                    y = (y + v["D"][d] * v["u"][b][d][t]) * silu(v["z"][b][d][t])
                assert found[b, d, t].item() == pytest.approx(y, rel=1e-10, abs=1e-12)  # type: ignore[call-overload]


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("shared", ["", "A x_dbl dt_weight dt_bias D"])
@pytest.mark.parametrize("paths", [BIDIRECTIONAL, CROSS, TABLE], ids=["both", "cross", "table"])
def test_scan_paths(paths: tuple[ScanPath, ...], own: bool, shared: str) -> None:
    batch, length, channels, states, rank = 1, 6, 3, 2, 2
    tensors = in_float64(
        path_inputs(batch, length, channels, len(paths), states, rank, own=own, shared=shared)
    )
    found = scan_paths(**tensors, paths=paths, grid=(2, 3), backend="reference")  # type: ignore[arg-type]
    v = lists(tensors)
    for d in range(channels):
        total = [0.0] * length
        for k, path in enumerate(paths):
            s = 0 if shared else k  # which parameters
            order = path.tokens(2, 3).tolist()
            steps = []
            for p in order:
                row = [0.0] * (rank + 2 * states) if p < 0 else v["x_dbl"][0][p][s]
                u = 0.0 if p < 0 else (v["x"][0][p][k][d] if own else v["x"][0][p][d])
                projected = sum(w * r for w, r in zip(v["dt_weight"][s][d], row, strict=False))
                steps.append(
                    (
                        u,
                        softplus(projected + v["dt_bias"][s][d]),
                        row[rank : rank + states],
                        row[rank + states :],
                    )
                )
            for p, (u, *_), y in zip(order, steps, scan(steps, v["A"][s][d]), strict=True):
                if p >= 0:
                    total[p] += y + v["D"][s][d] * u
        for p in range(length):
            expected = total[p] * silu(v["z"][0][p][d])
            assert found[0, p, d].item() == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("activation", ["silu", None])
def test_causal_conv1d(activation: str | None) -> None:
    batch, length, channels, taps = 1, 5, 2, 3
    tensors = in_float64(conv_inputs(batch, length, channels, 2, taps))
    found = causal_conv1d(**tensors, activation=activation, reverse=(False, True), backend="reference")  # type: ignore[arg-type]
    v = lists(tensors)
    for k, towards in enumerate(
        (-1, 1)
    ):  # the past lies to the left, or to the right where time runs backward
        for at in range(length):
            for d in range(channels):
                y = v["bias"][k][d]
                for back in range(taps):
                    token = at + towards * back
                    if 0 <= token < length:
                        y += v["weight"][k][d][taps - 1 - back] * v["x"][0][token][d]
                y = silu(y) if activation else y
                assert found[0, at, k, d].item() == pytest.approx(y, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("rms", [True, False])
def test_add_norm(rms: bool) -> None:
    tensors = in_float64(norm_inputs(3, 4))
    out, stream = add_norm(**tensors, eps=0.01, rms=rms, backend="reference")  # type: ignore[arg-type]
    v = lists(tensors)
    for i in range(3):
        row = [a + b for a, b in zip(v["x"][i], v["residual"][i], strict=True)]
        mean = 0.0 if rms else sum(row) / 4
        scale = math.sqrt(sum((value - mean) ** 2 for value in row) / 4 + 0.01)
        expected = [(r - mean) / scale * w + b for r, w, b in zip(row, v["weight"], v["bias"], strict=True)]
        assert out[i].tolist() == pytest.approx(expected, rel=1e-10)
        assert stream[i].tolist() == pytest.approx(row, rel=1e-12)
