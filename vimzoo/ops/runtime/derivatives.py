"""Derivatives of the operators: fast first derivatives, all others through the reference.

An ordinary backward pass is one call of an operator's backward operator. Second derivatives, forward mode and every
transform of `torch.func` run `vimzoo.ops.reference` as plain PyTorch operations instead, which torch differentiates
itself. The results are exact up to rounding but slow to compute, which is logged once per operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from .. import backends, reference
from .call import Call, empty
from .library import CONTRACTS, LIBRARY, autocast_inputs, filled, in_forward_mode, without_autocast

TORCH_FUNC, FORWARD_MODE, SECOND = "torch.func transforms", "forward-mode AD", "second derivatives"


@dataclass
class Derivative:
    """What a pair of operators ``vimzoo::op`` and ``vimzoo::op_backward`` computes.

    The backward operator takes ``outputs`` gradients, ``saved`` tensors that the forward operator returned for it, and
    the fields of ``call`` without ``save_states``; both have ``backend`` as their last argument.

    Args:
        op: name of the forward operator.
        call: the class of its inputs.
        function: its definition, from a call to its outputs that have gradients.
        outputs: how many outputs have a gradient, 1 or 2.
        saved: 1 if the backward operator takes the last output of the forward operator, else 0.
        without_first: gradients of the leaves if only the second output was used; by default the first one's gradient
            is taken to be zero.
    """

    op: str
    call: type[Call]
    function: Callable[[Any], Any]
    outputs: int
    saved: int = 0
    without_first: Callable[[Any, Tensor], tuple[Tensor | None, ...]] | None = None

    def __post_init__(self) -> None:
        # The forward node is on the path of every training step, so that all places are looked up once
        self._backward = getattr(torch.ops.vimzoo, f"{self.op}_backward")
        self._tensor_places = self.call.tensor_places()
        count = len(getattr(torch.ops.vimzoo, self.op).default._schema.arguments)
        kept = [*self._tensor_places, *(i for i in range(count) if i not in self._tensor_places)]
        wanted = [*range(len(self.call.names(backward=True))), count - 1]  # without ``save_states``
        self._tensors_of = itemgetter(*self._tensor_places)
        self._settings_of = itemgetter(*kept[len(self._tensor_places) :])
        self._arguments_of = itemgetter(*(self.saved + kept.index(i) for i in wanted))
        self._missing = (None,) * (count - self.call.DIFFERENTIABLE)  # gradients of settings and ``backend``

    def gradients(self, *args: Any) -> tuple[Tensor, ...]:
        """The backward operator in differentiable PyTorch operations; takes its arguments without ``backend``."""
        cotangents, call = args[: self.outputs], self.call(*args[self.outputs + self.saved :])
        found = _gradients(lambda *leaves: self.function(call.with_leaves(leaves)), call.leaves, cotangents)
        return tuple(empty(call.first) if gradient is None else gradient for gradient in found)

    def save(self, ctx: Any, args: tuple, output: Any) -> None:
        """``setup_context`` of the forward operator's autograd node."""
        ctx.save_for_backward(*(output[-1:] if self.saved else ()), *self._tensors_of(args))
        ctx.settings = self._settings_of(args)
        if isinstance(output, tuple):
            ctx.set_materialize_grads(False)  # one of the outputs may be unused
            if self.saved:
                ctx.mark_non_differentiable(*output[self.outputs :])

    def _save(self, ctx: Any, before: Sequence[Any], args: Sequence[Any]) -> None:
        """Keep some tensors and an operator's arguments from its `Call` on; tensors apart, as torch wants it."""
        ctx.save_for_backward(*before, *[args[i] for i in self._tensor_places])
        settings = list(args)
        for i in self._tensor_places:
            settings[i] = None
        ctx.settings = settings
        ctx.set_materialize_grads(False)

    def _saved(self, ctx: Any, before: int) -> tuple[Sequence[Any], list[Any]]:
        """The inverse of `_save`."""
        tensors = ctx.saved_tensors  # asked for once, as gradient checkpointing wants it
        arguments = list(ctx.settings)
        for i, tensor in zip(self._tensor_places, tensors[before:], strict=True):
            arguments[i] = tensor
        return tensors[:before], arguments

    def backward(self, ctx: Any, *grads: Tensor | None) -> tuple:
        """Backward pass of that node: one call of the backward operator."""
        tensors = ctx.saved_tensors  # asked for once, as gradient checkpointing wants it
        arguments = self._arguments_of((*tensors, *ctx.settings))
        leaves = arguments[: self.call.DIFFERENTIABLE]
        first, *others = grads[: self.outputs]
        if first is None:
            if not others or others[0] is None:
                return (*(None,) * len(leaves), *self._missing)
            if self.without_first is not None:
                return *self.without_first(self.call(*arguments[:-1]), others[0]), *self._missing
            first = leaves[0].new_zeros(self.call(*arguments[:-1]).output_shape)
        found = self._backward(first, *others, *tensors[: self.saved], *arguments)
        kept = [None if leaf is None else grad for leaf, grad in zip(leaves, found, strict=True)]
        return *kept, *self._missing

    def save_second(self, ctx: Any, inputs: tuple, output: tuple) -> None:
        """``setup_context`` of the backward operator's node."""
        arguments = inputs[self.outputs + self.saved :]
        self._save(ctx, inputs[: self.outputs], arguments)
        leaves = arguments[: self.call.DIFFERENTIABLE]
        ctx.mark_non_differentiable(*(o for o, leaf in zip(output, leaves, strict=True) if leaf is None))

    def second(self, ctx: Any, *grads: Tensor | None) -> tuple:
        """Backward pass of the backward operator."""
        cotangents, (*arguments, backend) = self._saved(ctx, self.outputs)
        backends.use_reference(self.op, SECOND, backend)
        inputs = self.call.DIFFERENTIABLE
        leaves, settings = arguments[:inputs], arguments[inputs:]

        def first(*values: Tensor | None) -> tuple[Tensor, ...]:
            return self.gradients(
                *values[: self.outputs], *(None,) * self.saved, *values[self.outputs :], *settings
            )

        with without_autocast(leaves[0].device.type):
            found = _gradients(first, (*cotangents, *leaves), grads)
        missing = (None,) * (len(settings) + 1)
        return *found[: self.outputs], *(None,) * self.saved, *found[self.outputs :], *missing


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
    op = derivative.op

    def plain(*args: Any) -> Any:
        return backends.find("reference").ops[op](derivative.call(*args))

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
        args = filled(args, count)
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
            return Node.apply(keyset, *filled(args, count))
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


def _has_tangent(value: Any) -> bool:
    return isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None
