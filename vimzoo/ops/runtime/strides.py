"""Strides of tensors in the form in which GPU kernels take them."""

from __future__ import annotations

from torch import Tensor


def strides_of(tensor: Tensor | None, axes: str, order: str = "blkd") -> tuple[int, ...]:
    """Strides of ``tensor``, whose axes are ``axes``, in the kernels' ``order``; 0 for an axis it lacks or shares."""
    if tensor is None:
        return (0,) * len(order)
    found = {
        axis: stride if size > 1 or axis == "d" else 0
        for axis, stride, size in zip(axes, tensor.stride(), tensor.shape, strict=True)
    }
    return tuple(found.get(axis, 0) for axis in order)


def direction_stride(parameter: Tensor | None) -> int:
    """Items from one direction's part of a parameter ``(K or 1, ...)`` to the next; 0 where all share one."""
    return 0 if parameter is None or parameter.shape[0] == 1 else parameter.stride(0)
