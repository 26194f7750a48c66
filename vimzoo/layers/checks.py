"""Checks of the inputs of layers. Every message names the argument, the expectation and the value found."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from timm.models import register_notrace_function
from torch import Tensor


@register_notrace_function  # sizes decide, which FX cannot follow
@torch.jit.script_if_tracing  # so that a traced model checks what it is given, not what it was traced with
def check_map(x: Tensor, dim: int, channel_axis: int = 3, smallest: int = 0, axes: int = 4) -> Tensor:
    """Return ``x`` if it is a feature map or volume.

    Args:
        dim: Its number of channels.
        channel_axis: 1 for ``(B, C, H, W)``, anything else for ``(B, H, W, C)``.
        smallest: Least height and width.
        axes: 4 for a map, 5 for a volume ``(B, D, H, W, C)``.

    Raises:
        TypeError: ``x`` is not a tensor.
        ValueError: ``x`` is not floating-point, does not have so many axes or ``dim`` channels, or is too small.
    """
    if not torch.jit.is_scripting():
        if _is_proxy(x):
            return x
        check_floating(x)
    kind = "map" if axes == 4 else "volume"
    grid = "H, W" if axes == 4 else "D, H, W"
    layout = f"(B, C, {grid})" if channel_axis == 1 else f"(B, {grid}, C)"
    if x.dim() != axes:
        raise ValueError(f"x: expected a {kind} {layout}, got {x.dim()} dimensions")
    channels = x.shape[1] if channel_axis == 1 else x.shape[axes - 1]
    if channels != dim:
        raise ValueError(f"x: expected a {kind} {layout} of {dim} channels, got {channels}")
    first = 2 if channel_axis == 1 else 1
    if smallest > 0:
        small = False
        for axis in range(first, first + axes - 2):
            small = small or x.shape[axis] < smallest
        if small:
            least = " x ".join([str(smallest) for _ in range(axes - 2)])
            found = " x ".join([str(x.shape[axis]) for axis in range(first, first + axes - 2)])
            raise ValueError(f"x: expected a {kind} of at least {least} positions, got {found}")
    return x


@register_notrace_function
@torch.jit.script_if_tracing
def check_tokens(x: Tensor, dim: int, axes: int = 3) -> Tensor:
    """Return ``x`` if it holds tokens of width ``dim`` on its last axis.

    Args:
        axes: 3 for sequences ``(B, L, D)``, 0 for any number.

    Raises:
        TypeError: ``x`` is not a tensor.
        ValueError: ``x`` is not floating-point, or has another number of axes or another width.
    """
    if not torch.jit.is_scripting():
        if _is_proxy(x):
            return x
        check_floating(x)
    if axes > 0 and x.dim() != axes:
        raise ValueError(f"x: expected tokens (B, L, {dim}), got {x.dim()} dimensions")
    if x.dim() < 1:
        raise ValueError(f"x: expected tokens (..., {dim}), got 0 dimensions")
    if x.shape[-1] != dim:
        raise ValueError(f"x: expected tokens of width {dim}, got {x.shape[-1]}")
    return x


def _is_proxy(x: Any) -> bool:
    """Whether ``x`` stands for a tensor in a graph that is being recorded, such as `torch.fx.Proxy`."""
    return not isinstance(x, Tensor) and hasattr(x, "__torch_function__")


def check_floating(x: Any) -> None:
    """Check that ``x`` is a tensor of floating-point numbers.

    Raises:
        TypeError, ValueError: it is not.
    """
    if _is_proxy(x):
        return
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor, got {x!r} of type {type(x).__name__}")
    if not x.is_floating_point():
        raise ValueError(f"x: expected a floating-point tensor, got {x.dtype}")


@register_notrace_function  # the dtype decides
def check_double(x: Tensor, weight: Tensor) -> None:
    """Check that ``x`` is of float64 if and only if a norm's weight is; torch's norms refuse a mixture of the two.

    Raises:
        ValueError: it is not.
    """
    if not torch.jit.is_scripting():
        if _is_proxy(x):
            return
        if (x.dtype == torch.float64) != (weight.dtype == torch.float64):
            raise ValueError(f"x: expected the dtype of the weights, {weight.dtype}, got {x.dtype}")


def check_norm_dtype(x: Tensor, norm: torch.nn.Module) -> None:
    """`check_double` with the weight of a norm that has one itself, which a batch norm of maps or none has not.

    Raises:
        ValueError: as `check_double`.
    """
    weight = norm._parameters.get("weight")
    if weight is not None:
        check_double(x, weight)


def check_sizes(**sizes: Any) -> None:
    """Check arguments of a constructor that are whole numbers of at least 1.

    Raises:
        ValueError: one of them is not.
    """
    for name, value in sizes.items():
        try:
            fits = value.__index__() >= 1
        except (AttributeError, TypeError):  # a fraction, a string
            fits = False
        if not fits:
            raise ValueError(f"{name}: expected a positive whole number, got {value!r}")


def check_rates(**rates: Any) -> None:
    """Check arguments of a constructor that are probabilities of dropping something.

    Raises:
        ValueError: one of them is not a number in 0..1.
    """
    for name, value in rates.items():
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"{name}: expected a rate in 0..1, got {value!r}")


def check_choice(known: Collection[str], **options: Any) -> None:
    """Check arguments of a constructor that are one of the names ``known``.

    Raises:
        ValueError: one of them is not.
    """
    for name, value in options.items():
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"{name}: expected one of {', '.join(map(repr, known))}, got {value!r}")


def inner_width(name: str, ratio: float, dim: int) -> int:
    """``ratio`` times ``dim`` channels, rounded down.

    Args:
        name: Of the argument ``ratio``, for the message.

    Raises:
        ValueError: that is less than one channel.
    """
    if not isinstance(ratio, int | float) or not ratio * dim >= 1:
        raise ValueError(f"{name}: expected at least 1 / {dim}, for an inner width of 1, got {ratio!r}")
    return int(ratio * dim)


def per_block(
    name: str, options: Sequence[Mapping[str, Any]] | None, count: int
) -> Sequence[Mapping[str, Any]]:
    """Keyword arguments for each of ``count`` blocks; none by default.

    Args:
        name: Of the argument ``options``, for the message.

    Raises:
        ValueError: there is not one mapping per block.
    """
    if options is None:
        return [{}] * count
    if len(options) != count:
        raise ValueError(f"{name}: expected one mapping for each of {count} blocks, got {len(options)}")
    return options
