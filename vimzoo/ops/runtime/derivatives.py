"""Derivatives of the operators: fast first ones, and all others through the reference as plain PyTorch.

An ordinary backward pass is one call of an operator's backward operator. What backends do not implement runs
`vimzoo.ops.reference` as plain PyTorch operations, which torch differentiates itself: second derivatives, forward mode
and everything inside a transform of `torch.func`. That is right to rounding and slow; it is logged once per operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from .. import reference
from . import backends
from .library import CONTRACTS, LIBRARY, autocast_inputs, empty, in_forward_mode, without_autocast

TORCH_FUNC, FORWARD_MODE, SECOND = "torch.func transforms", "forward-mode AD", "second derivatives"


@dataclass(frozen=True)
class Derivative:
    """What a pair of operators ``vimzoo::op`` and ``vimzoo::op_backward`` computes.

    The backward operator takes ``outputs`` gradients, ``saved`` tensors that the forward operator left for it, and the
    forward operator's arguments without ``save_states``; both have ``backend`` as their last argument.

    Args:
        op: name of the forward operator.
        function: its definition; takes its arguments without ``save_states`` and ``backend``.
        tensors: how many leading arguments are tensors, or ``None``.
        outputs: how many outputs of ``function`` have a gradient, 1 or 2.
        saved: how many saved tensors the backward operator takes.
        plain: the forward operator on the reference; takes its arguments without ``backend``.
        save: ``setup_context`` of the forward operator's autograd node.
        backward: the node's backward pass, which calls the backward operator.
    """

    op: str
    function: Callable[..., Any]
    tensors: int
    outputs: int
    saved: int
    plain: Callable[..., Any]
    save: Callable[..., None]
    backward: Callable[..., tuple]

    def gradients(self, *args: Any) -> tuple[Tensor, ...]:
        """The backward operator in differentiable PyTorch operations; takes its arguments without ``backend``."""
        cotangents, leaves, settings = self._split(args)
        found = _gradients(lambda *values: self.function(*values, *settings), leaves, cotangents)
        return tuple(empty(leaves[0]) if gradient is None else gradient for gradient in found)

    def _split(self, args: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """The backward operator's arguments: gradients of outputs, tensors, the rest."""
        start = self.outputs + self.saved
        return args[: self.outputs], args[start : start + self.tensors], args[start + self.tensors :]

    def save_second(self, ctx: Any, inputs: tuple, output: tuple) -> None:
        """``setup_context`` of the backward operator's node."""
        *inputs, ctx.backend = inputs  # type: ignore[assignment]
        cotangents, leaves, ctx.settings = self._split(inputs)
        ctx.save_for_backward(*cotangents, *leaves)
        ctx.mark_non_differentiable(*(o for o, leaf in zip(output, leaves, strict=True) if leaf is None))
        ctx.set_materialize_grads(False)

    def second(self, ctx: Any, *grads: Tensor | None) -> tuple:
        """Backward pass of the backward operator."""
        backends.use_reference(self.op, SECOND, ctx.backend)
        tensors = ctx.saved_tensors

        def first(*values: Tensor | None) -> tuple[Tensor, ...]:
            cotangents, leaves = values[: self.outputs], values[self.outputs :]
            return self.gradients(*cotangents, *(None,) * self.saved, *leaves, *ctx.settings)

        with without_autocast(tensors[0].device.type):
            found = _gradients(first, tensors, grads)
        settings = (None,) * (len(ctx.settings) + 1)
        return *found[: self.outputs], *(None,) * self.saved, *found[self.outputs :], *settings


def _gradients(
    function: Callable[..., Any], tensors: Sequence[Tensor | None], cotangents: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients of a function's outputs with respect to ``tensors`` that can be differentiated again and transformed.

    Args:
        function: takes ``tensors``.
        cotangents: of its outputs; those that have none are ignored.

    Returns:
        as many as ``tensors``, ``None`` for ``None``.
    """
    given = [i for i, tensor in enumerate(tensors) if tensor is not None]
    wanted = [i for i, cotangent in enumerate(cotangents) if cotangent is not None]
    gradients: list[Tensor | None] = [None] * len(tensors)
    if not wanted:
        return gradients

    def of_given(*values: Tensor) -> tuple[Tensor, ...]:
        arguments = list(tensors)
        for i, value in zip(given, values, strict=True):
            arguments[i] = value
        outputs = function(*arguments)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return tuple(outputs[i] for i in wanted)

    pull_back = torch.func.vjp(of_given, *(tensors[i] for i in given))[1]
    for i, gradient in zip(given, pull_back(tuple(cotangents[i] for i in wanted)), strict=True):
        gradients[i] = gradient
    return gradients


def register(derivative: Derivative) -> None:
    """Register the derivatives of an operator and of its backward operator with torch."""
    op, plain = derivative.op, derivative.plain
    _register(op, plain, derivative.save, derivative.backward)
    _register(f"{op}_backward", derivative.gradients, derivative.save_second, derivative.second)


def _register(
    op: str, plain: Callable[..., Any], save: Callable[..., None], backward: Callable[..., tuple]
) -> None:
    overload = getattr(torch.ops.vimzoo, op).default
    count = len(overload._schema.arguments)

    def below(keyset: Any, args: tuple) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return overload.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    class Node(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, keyset: Any, *args: Any) -> Any:  # type: ignore[override]
            output = below(keyset, args)
            save(ctx, args, output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> tuple:  # type: ignore[override]
            return None, *backward(ctx, *grads)

    def on_reference(why: str, args: tuple) -> Any:
        args = _filled(args, count)
        backends.use_reference(op, why, args[-1])
        device = args[0].device.type
        narrowed = autocast_inputs(op, args, device)
        CONTRACTS[op].check(*narrowed[:-1])
        with without_autocast(device):
            return plain(*narrowed[:-1])

    def autograd(keyset: Any, *args: Any) -> Any:
        if in_forward_mode() and any(_has_tangent(a) for a in args):
            return on_reference(FORWARD_MODE, args)
        if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args):
            return Node.apply(keyset, *_filled(args, count))
        return below(keyset, args)

    Node.__name__ = Node.__qualname__ = f"vimzoo_{op}"
    LIBRARY.impl(op, autograd, "Autograd", with_keyset=True)
    LIBRARY.impl(op, lambda *args: on_reference(TORCH_FUNC, args), "FuncTorchDynamicLayerFrontMode")


class PlainLayerNorm(TorchFunctionMode):
    """Within the block ``F.layer_norm`` is `reference.layer_norm`, whose tangents can be differentiated backward."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ``func``, or the reference in place of ``F.layer_norm``."""
        if func is F.layer_norm:
            func = reference.layer_norm
        return func(*args, **(kwargs or {}))


def _filled(args: tuple, count: int) -> tuple:
    """``args`` with the trailing defaults that the dispatcher leaves out, which are all ``None``."""
    return args + (None,) * (count - len(args))


def _has_tangent(value: Any) -> bool:
    return isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None
