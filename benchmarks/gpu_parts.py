"""Parts of ``gpu.py``: correctness and the operators. Each gives rows, ready for JSON and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from compositions import Inputs, unfused
from gpu_bench import Bench, Calls, Row, attempt, our_backends, without_gradients
from gpu_shapes import Ceilings, Layer, counted_slots
from torch import Tensor

from vimzoo.ops import causal_conv1d, scan_paths
from vimzoo.ops.backends import mamba_ssm

TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Of the largest true value, for outputs and every gradient."""


def gradients(
    function: Callable[..., Tensor], inputs: Inputs, grad: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The output, and the gradient of each input that there is for a cotangent, random if not given."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in inputs]
    out = function(*leaves)
    grad = torch.randn_like(out) if grad is None else grad.to(out.dtype)
    given = [leaf for leaf in leaves if leaf is not None]
    return out.detach(), list(torch.autograd.grad(out, given, grad))


def largest_error(found: Iterable[Tensor], truths: Iterable[Tensor]) -> float:
    """Worst difference as a share of the largest true value; not a number counts as infinite."""
    worst = 0.0
    for value, truth in zip(found, truths, strict=True):
        error = float((value.double() - truth).abs().max() / truth.abs().max().clamp_min(1e-3))
        worst = max(worst, error if error == error else float("inf"))
    return worst


def check(bench: Bench, shapes: list[Layer]) -> list[Row]:
    """Every kernel that will be timed against the float64 reference, on a few tokens of one image of each family.

    One that does not run is absent from then on.
    """
    rows = []
    smallest = {layer.family: layer.small() for layer in reversed(shapes)}
    for layer in smallest.values():
        for dtype, tolerance in TOLERANCES.items():
            inputs = layer.inputs(bench.device, dtype)
            wide = tuple(None if t is None else t.double() for t in inputs)
            fused = partial(scan_paths, **layer.settings())
            tokens = layer.grid[0] * layer.grid[1]
            grad = torch.randn(layer.batch, tokens, layer.channels, device=bench.device, dtype=torch.float64)
            truth, slopes = gradients(partial(fused, backend="reference"), wide, grad)
            calls = {name: partial(fused, backend=name) for name in our_backends(bench)}
            calls |= compositions(bench, layer)
            for name, call in calls.items():
                # composed around a bare scan, dt and each direction's output are rounded on the way
                allowed = tolerance * (2 if name.startswith("unfused") else 1)
                row = {"shape": layer.name, "dtype": str(dtype).removeprefix("torch."), "kernel": name}
                result, reason = attempt(partial(gradients, call, inputs, grad))
                if reason is not None:
                    bench.absent.setdefault(name, reason)
                    rows.append(row | {"failed": reason})
                    continue
                out, found = result
                row |= {"forward": largest_error([out], [truth]), "backward": largest_error(found, slopes)}
                rows.append(row | {"right": max(row["forward"], row["backward"]) <= allowed})
    return rows


def upstream_scan(bench: Bench) -> Callable[..., Tensor] | None:
    """mamba_ssm's ``selective_scan_fn``, if it is there."""
    return None if "mamba_ssm" in bench.absent else mamba_ssm.load_scan()[0]


def compositions(bench: Bench, layer: Layer) -> dict[str, Callable[..., Tensor]]:
    """The layer's scan composed around our bare scan and, if it is there, mamba_ssm's."""
    upstream = upstream_scan(bench)
    calls: dict[str, Callable[..., Tensor]] = {"unfused": lambda *i: unfused(i, layer.grid)}
    if upstream is not None:
        calls["unfused, mamba_ssm"] = lambda *i: unfused(i, layer.grid, upstream)
    return calls


def scan_calls(bench: Bench, layer: Layer) -> Calls:
    """The layer's scan: ours fused, the composition, and the bare kernel of mamba_ssm on inputs that lie ready."""
    inputs = layer.inputs(bench.device, bench.dtype)
    fused = partial(scan_paths, **layer.settings())
    calls: dict[str, Callable[..., Tensor]] = {
        name: partial(fused, backend=name) for name in our_backends(bench)
    }
    calls |= compositions(bench, layer)
    chosen = {name: (call, inputs) for name, call in calls.items()}
    upstream = upstream_scan(bench)
    if upstream is not None:
        chosen["mamba_ssm's kernel alone"] = (partial(upstream, delta_softplus=True), ready(layer, bench))
    found: Calls = {}
    for name, (call, given) in chosen.items():
        found[f"{name}: forward"] = without_gradients(call, given)
        found[f"{name}: forward+backward"] = partial(gradients, call, given)
    return found


def ready(layer: Layer, bench: Bench) -> Inputs:
    """What mamba_ssm's kernel takes for all directions at once: u, delta, A, B, C, D, z, delta_bias."""
    x, _, A, _, bias, D, z = layer.inputs(bench.device, bench.dtype)
    assert A is not None and bias is not None and D is not None and x is not None
    length, channels = layer.grid[0] * layer.grid[1], layer.directions * layer.channels

    def randn(*shape: int) -> Tensor:
        return torch.randn(layer.batch, *shape, length, device=bench.device, dtype=bench.dtype)

    u, delta = randn(channels), randn(channels)
    B, C = (randn(layer.directions, layer.states) for _ in range(2))
    return (
        u,
        delta,
        A.flatten(0, 1),
        B,
        C,
        D.flatten(),
        None if z is None else randn(channels),
        bias.flatten(),
    )


def scans(bench: Bench, shapes: list[Layer], ceilings: Ceilings) -> list[Row]:
    """One row for each layer, pass and kernel: seconds, ns per element, and shares of the ceilings."""
    rows: list[Row] = []
    for layer in shapes:
        if bench.over:
            rows.append({"shape": layer.name, "failed": "no time left"})
            continue
        _, reason = attempt(partial(layer.inputs, bench.device, bench.dtype))
        times = {"inputs: forward": {"failed": reason}} if reason else bench.measure(scan_calls(bench, layer))
        for name, time in times.items():
            kernel, _, way = name.rpartition(": ")
            row: Row = {"shape": layer.name, "pass": way, "kernel": kernel, **time}
            if "median" in time:
                row["ns"] = time["median"] / layer.elements * 1e9
            if way == "forward" and "median" in time and "alone" not in kernel:
                slots = counted_slots(kernel, layer.states, way)
                row["of_bandwidth"] = ceilings.of_bandwidth(layer.least_bytes(), time["median"])
                row["of_issue"] = ceilings.of_issue(slots, layer.elements, time["median"])
            rows.append(row)
    return rows


def convolutions(bench: Bench, shapes: list[Layer]) -> list[Row]:
    """Vim's convolution in both directions: ours in one pass, causal-conv1d's twice with flips."""
    rows: list[Row] = []
    for layer in shapes:
        if layer.directions != 2 or bench.over:
            continue
        x = torch.randn(layer.batch, layer.grid[1], layer.channels, device=bench.device, dtype=bench.dtype)
        weight = torch.randn(2, layer.channels, 4, device=bench.device)
        names = [name for name in our_backends(bench) if name != "cuda"]
        names += [] if "causal_conv1d" in bench.absent else ["mamba_ssm"]
        calls: Calls = {
            f"{name}: forward": without_gradients(
                partial(causal_conv1d, activation="silu", reverse=(False, True), backend=name), (x, weight)
            )
            for name in names
        }
        for name, time in bench.measure(calls).items():
            rows.append({"shape": layer.name, "pass": "forward", "kernel": name.split(":")[0], **time})
    return rows
