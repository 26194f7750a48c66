"""Inputs for the ops in every shape, layout and dtype, and the comparison of a backend with the float64 reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from vimzoo.ops import BIDIRECTIONAL, ScanPath, add_norm, causal_conv1d, scan_paths, selective_scan

Tensors = dict[str, Tensor | None]
LAYOUTS = ("contiguous", "transposed", "strided", "offset")
OUTPUT_TOLERANCE = 5e-6
"""Of the largest value: float32 rounds at 6e-8, and 4097 steps of a decaying recurrence keep a few dozen of these."""
GRADIENT_TOLERANCE = 2e-5
"""Gradients of parameters also sum over all positions and images."""
HALF_TOLERANCE = 2e-2
"""bfloat16 keeps 8 bits (4e-3); inputs, outputs and gradients are each rounded once."""


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same values at other addresses: transposed, every second item, or inside a larger tensor."""
    if layout == "transposed" and tensor.dim() > 1:
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "strided":
        wide = tensor.new_full((*tensor.shape[:-1], 2 * tensor.shape[-1]), float("nan"))
        wide[..., ::2] = tensor
        return wide[..., ::2]
    if layout == "offset":
        frame = tensor.new_full([size + 3 for size in tensor.shape], float("nan"))
        inner = frame[tuple(slice(1, 1 + size) for size in tensor.shape)]
        return inner.copy_(tensor)
    return tensor.contiguous()


def with_layout(tensors: Tensors, layout: str) -> Tensors:
    """`laid_out` for each."""
    return {name: None if t is None else laid_out(t, layout) for name, t in tensors.items()}


def with_dtype(tensors: Tensors, dtype: torch.dtype, names: str) -> Tensors:
    """The tensors named in ``names`` in another dtype."""
    return {n: t.to(dtype) if t is not None and n in names.split() else t for n, t in tensors.items()}


def scan_inputs(
    batch: int = 2,
    channels: int = 5,
    length: int = 49,
    states: int = 8,
    groups: int | None = 1,
    *,
    C_groups: int | None = -1,
    optional: str = "D z delta_bias",
) -> Tensors:
    """Inputs of `selective_scan`: ``groups`` 0 gives B and C without a group axis, ``None`` constant ones."""

    def narrow(count: int | None) -> Tensor:
        if count is None:
            return torch.randn(channels, states)
        axis = (count,) if count else ()
        return torch.randn(batch, *axis, states, length)

    given = optional.split()
    return {
        "u": torch.randn(batch, channels, length),
        "delta": 0.5 * torch.rand(batch, channels, length),
        "A": -0.5 - torch.rand(channels, states) * states,
        "B": narrow(groups),
        "C": narrow(groups if C_groups == -1 else C_groups),
        "D": torch.randn(channels) if "D" in given else None,
        "z": torch.randn(batch, channels, length) if "z" in given else None,
        "delta_bias": torch.rand(channels) - 0.5 if "delta_bias" in given else None,
    }


def path_inputs(
    batch: int = 2,
    length: int = 49,
    channels: int = 5,
    directions: int = 2,
    states: int = 8,
    rank: int = 3,
    *,
    own: bool = False,
    shared: str = "",
    optional: str = "D z",
    C: bool = True,
    carried: bool = False,
) -> Tensors:
    """Inputs of `scan_paths`; ``own`` gives each direction its x, ``shared`` names tensors with a K axis of 1.

    Without ``C`` the output is the states; then ``optional`` has to be empty. ``carried`` gives initial states.
    """
    given = optional.split()
    initial = {"initial_state": torch.randn(batch, directions, channels, states)} if carried else {}

    def count(name: str) -> int:
        return 1 if name in shared.split() else directions

    return {
        "x": torch.randn(batch, length, *((directions,) if own else ()), channels),
        "x_dbl": torch.randn(batch, length, count("x_dbl"), rank + (2 if C else 1) * states),
        "A": -0.5 - torch.rand(count("A"), channels, states) * states,
        "dt_weight": torch.randn(count("dt_weight"), channels, rank) / rank**0.5,
        "dt_bias": torch.randn(count("dt_bias"), channels) - 1,
        "D": torch.randn(count("D"), channels) if "D" in given else None,
        "z": torch.randn(batch, length, channels) if "z" in given else None,
        **initial,
    }


def conv_inputs(
    batch: int = 2,
    length: int = 49,
    channels: int = 5,
    directions: int = 2,
    taps: int = 4,
    *,
    bias: bool = True,
) -> Tensors:
    """Inputs of `causal_conv1d`."""
    return {
        "x": torch.randn(batch, length, channels),
        "weight": torch.randn(directions, channels, taps),
        "bias": torch.randn(directions, channels) if bias else None,
    }


def norm_inputs(*shape: int, residual: bool = True, bias: bool = True) -> Tensors:
    """Inputs of `add_norm`."""
    shape = shape or (2, 7, 40)
    return {
        "x": torch.randn(shape) + 0.3,
        "residual": torch.randn(shape) if residual else None,
        "weight": torch.rand(shape[-1]) + 0.5,
        "bias": torch.randn(shape[-1]) if bias else None,
    }


PLAIN: dict[str, tuple[Callable[..., Any], Callable[[], Tensors], dict[str, Any]]] = {
    "selective_scan": (
        selective_scan, lambda: scan_inputs(groups=1), {"delta_softplus": True, "return_last_state": True}
    ),
    "scan_paths": (scan_paths, path_inputs, {"paths": BIDIRECTIONAL}),
    "scan_paths_table": (
        scan_paths,
        lambda: path_inputs(length=6, own=True, optional="D"),
        {"paths": (ScanPath.from_table([2, -1, 0, 4]), ScanPath.from_table([5, 5, 1, -1])), "merge": False},
    ),
    "causal_conv1d": (causal_conv1d, conv_inputs, {"reverse": (False, True), "activation": "silu"}),
    "add_norm": (add_norm, norm_inputs, {}),
}  # fmt: skip
"""Per op a call that uses most of it: function, inputs, settings."""


def run_with_gradients(
    function: Callable[..., Any], tensors: Mapping[str, Tensor | None], **settings: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs, and gradients of every tensor for fixed random cotangents, by name."""
    leaves = {n: None if t is None else t.detach().requires_grad_() for n, t in tensors.items()}
    outputs = function(**leaves, **settings)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out) for out in outputs]
    given = {name: leaf for name, leaf in leaves.items() if leaf is not None}
    gradients = torch.autograd.grad(outputs, list(given.values()), cotangents)
    return (
        {f"output {i}": out.detach() for i, out in enumerate(outputs)},
        {f"gradient of {name}": grad for name, grad in zip(given, gradients, strict=True)},
    )


def error(value: Tensor, truth: Tensor) -> float:
    """Largest difference as a share of the largest true value."""
    if not truth.numel():
        return 0.0
    scale = truth.abs().max().clamp_min(1e-3)
    difference = ((value.to(truth.dtype) - truth).abs().max() / scale).item()
    return difference if difference == difference else float("inf")  # NaN compares false with everything


def in_float64(tensors: Tensors) -> Tensors:
    """The same values in float64, complex ones in complex128."""
    wide = {True: torch.complex128, False: torch.float64}
    return {name: None if t is None else t.to(wide[t.is_complex()]) for name, t in tensors.items()}


def assert_matches_reference(
    function: Callable[..., Any],
    tensors: Tensors,
    *,
    tolerances: tuple[float, float] = (OUTPUT_TOLERANCE, GRADIENT_TOLERANCE),
    backend: str = "cpu",
    **settings: Any,
) -> None:
    """Outputs and all gradients of ``backend`` against the reference in float64 on the same values."""
    found = run_with_gradients(function, tensors, backend=backend, **settings)
    truth = run_with_gradients(function, in_float64(tensors), backend="reference", **settings)
    for values, truths, tolerance in zip(found, truth, tolerances, strict=True):
        assert values.keys() == truths.keys()
        for name, value in values.items():
            assert value.shape == truths[name].shape, name
            difference = error(value, truths[name])
            assert difference <= tolerance, f"{name}: off by {difference:.1e} of the largest value"
