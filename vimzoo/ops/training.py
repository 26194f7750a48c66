"""Training on the CPU: what layers run in place of operators of torch that are slow there, with gradients.

Callers ask `can_train` first, as those of `vimzoo.ops.inference` ask `can_infer`. Gradients of gradients are torch's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import inference
from .norm import native as norm
from .norm.call import NormCall
from .runtime import native, threads
from .runtime.abi import DTYPES, address
from .runtime.library import is_eager

__all__ = ["can_train", "depthwise", "layer_norm"]

MOST_GROUPS = 32
"""Of rows whose gradients are summed apart, so that sums do not depend on the number of threads."""


def can_train(x: Tensor, *parameters: Tensor | None) -> bool:
    """Whether the functions of this module may take an activation, and parameters of its dtype or in float32."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return False
    given = [x, *(p for p in parameters if p is not None)]
    return (
        is_eager(*given)
        and x.dtype in DTYPES
        and all(t.is_cpu and t.dtype in (x.dtype, torch.float32) for t in given)
        and x.numel() > 0
        and inference.runs_here()
    )


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int = 1) -> Tensor:
    """Depthwise 3 x 3 convolution that keeps the size of the map.

    Args:
        x: Map ``(B, H, W, C)``.
        weight: ``(C, 1, 3, 3)``.
        bias: ``(C,)``.
        dilation: Pixels from tap to tap, and padding.

    Returns:
        ``(B, H, W, C)``, dense.
    """
    return _Depthwise.apply(x, weight, bias, dilation)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """LayerNorm over the last axis.

    Args:
        x: ``(..., C)``.
        weight, bias: ``(C,)``.
        eps: Added to the variance.

    Returns:
        ``(..., C)``, dense.
    """
    return _LayerNorm.apply(x, weight, bias, eps)


def _plain_gradients(
    function: Callable[..., Tensor], given: tuple[Any, ...], grad: Tensor
) -> tuple[Any, ...]:
    """Gradients by torch's own operators, which have gradients themselves."""
    wanted = [t for t in given if isinstance(t, Tensor) and t.requires_grad]
    found = iter(torch.autograd.grad(function(*given), wanted, grad, create_graph=True))
    return tuple(next(found) if isinstance(t, Tensor) and t.requires_grad else None for t in given)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight, bias)
        ctx.dilation = dilation
        return inference.depthwise(x, weight, bias, False, dilation)

    @staticmethod
    def plain(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        y = F.conv2d(x.movedim(-1, 1), weight, bias, 1, dilation, dilation, len(weight))
        return y.movedim(1, -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _plain_gradients(_Depthwise.plain, (x, weight, bias, ctx.dilation), grad)
        grad = grad.contiguous()
        to_x, to_weight, to_bias = ctx.needs_input_grad[:3]
        dx = inference.depthwise(grad, weight.flip(2, 3), None, False, ctx.dilation) if to_x else None
        if not (to_weight or to_bias):
            return dx, None, None, None
        x = native.with_unit_last_stride(x)
        batch, height, width, channels = x.shape
        groups = min(batch * height, MOST_GROUPS)
        dweight, dbias = (
            torch.zeros(groups, channels, *size, dtype=torch.float32, device="cpu")
            for size in ((1, 3, 3), ())
        )
        native.require().depthwise_gradient_forward(native.DepthwiseGradientArgs(
            batch=batch, height=height, width=width, channels=channels, dtype=DTYPES[x.dtype], dilation=ctx.dilation,
            threads=threads.for_work(0.5 * x.numel()), row_groups=groups, x=address(x), x_b=x.stride(0),
            x_h=x.stride(1), x_w=x.stride(2), grad=address(grad), dweight=address(dweight), dbias=address(dbias),
        ))  # fmt: skip
        return dx, dweight.sum(0).to(weight.dtype), dbias.sum(0).to(bias.dtype) if to_bias else None, None


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight, bias)
        ctx.eps = eps
        return inference.layer_norm(x, weight, bias, eps)

    @staticmethod
    def plain(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        return F.layer_norm(x, weight.shape, weight, bias, eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _plain_gradients(_LayerNorm.plain, (x, weight, bias, ctx.eps), grad)
        call = NormCall(x, None, weight, bias, ctx.eps, False, False)
        dx, _, dweight, dbias = norm.add_norm_backward(call, grad, None, x)
        return dx, dweight, dbias if bias is not None else None, None
