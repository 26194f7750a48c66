"""The ``vimzoo`` operator library and what its ops share: autocast, reference gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import backends
from .contract import Contract

LIBRARY = torch.library.Library("vimzoo", "DEF")


CONTRACTS: dict[str, Contract] = {}
"""What each operator takes."""


def empty(like: Tensor) -> Tensor:
    """What an op's schema returns for a tensor that there is not: no items, float32."""
    return like.new_empty(0, dtype=torch.float32)


def implement(op: str, table: dict[str, Callable[..., Any]], contract: Contract) -> None:
    """Run ``vimzoo::op`` through `backends.run`, once ``contract`` has found its arguments to be right."""
    inputs = len(contract.names)
    CONTRACTS[op] = contract

    def kernel(*args: Any) -> Any:
        args += (None,) * (
            inputs + 1 - len(args)
        )  # the dispatcher leaves out trailing defaults, which are all None
        contract.check_once(*args[:inputs])
        return backends.run(op, table, args[inputs], *args[:inputs])

    LIBRARY.impl(op, kernel, "CompositeExplicitAutograd")


def check_tensors(optional: Sequence[str] = (), /, **tensors: Any) -> None:
    """See that these are tensors, or ``None`` where that is ``optional``; `Contract` checks what tensors they are.

    Raises:
        TypeError: naming an argument that is not a tensor.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) and not (tensor is None and name in optional):
            raise TypeError(f"{name}: expected a tensor, got {tensor!r} of type {type(tensor).__name__}")


def is_eager(*tensors: Tensor) -> bool:
    """Whether these are plain tensors that nothing looks into: no tracer, compiler, dispatch mode, forward-mode AD or
    function transform is active."""
    return (
        all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in tensors)
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and not torch._C._len_torch_dispatch_stack()
        and not in_forward_mode()
        and torch._C._functorch.peek_interpreter_stack() is None
    )


def in_forward_mode() -> bool:
    """Whether a level of forward-mode AD is open, so that tensors may have tangents."""
    return forward_ad._current_level >= 0


def gradients_of(
    function: Callable[..., Any], args: Sequence[Any], tensors: int, grad: Any
) -> tuple[Tensor, ...]:
    """Gradients of a reference function by autograd: one per leading tensor argument, empty for ``None``.

    Args:
        function: takes ``args``; only its first output gets ``grad`` unless ``grad`` is a tuple.
        tensors: how many leading arguments are tensors or ``None``.
    """
    # Inside an operator autograd may be switched off (under a FLOP counter, say); leaving inference mode switches it
    # on. A backward pass inside an autocast block must not narrow what runs in float32 here.
    with torch.inference_mode(False), torch.enable_grad(), without_autocast(args[0].device.type):
        leaves = [None if t is None else t.detach().requires_grad_() for t in args[:tensors]]
        outputs = function(*leaves, *args[tensors:])
        given = [leaf for leaf in leaves if leaf is not None]
        if isinstance(outputs, tuple):  # the last state of a sequence without steps depends on nothing
            used = [(out, to) for out, to in zip(outputs, grad, strict=True) if out.requires_grad]
            outputs, grad = zip(*used, strict=True)
        found = iter(torch.autograd.grad(outputs, given, grad, allow_unused=True))
    gradients: list[Tensor] = []
    for leaf in leaves:
        gradient = next(found) if leaf is not None else None
        if leaf is None:
            gradients.append(empty(args[0]))
        elif gradient is None:
            gradients.append(torch.zeros_like(leaf, memory_format=torch.contiguous_format))
        else:  # autograd may hand the same tensor to both terms of a sum; an op's outputs may not share memory
            shared = any(gradient.data_ptr() == other.data_ptr() for other in gradients)
            gradients.append(
                gradient.clone(memory_format=torch.contiguous_format) if shared else gradient.contiguous()
            )
    return tuple(gradients)


def _narrowed(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """An activation in the autocast dtype; complex and float64 ones stay, as in torch's own rules."""
    if tensor is None or not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(dtype)


def in_autocast(device: str) -> bool:
    """Whether autocast is on for this type of device; some, such as ``meta``, have none."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def without_autocast(device: str) -> contextlib.AbstractContextManager:
    """A block in which autocast is off."""
    return torch.autocast(device, enabled=False) if in_autocast(device) else contextlib.nullcontext()


_ACTIVATIONS: dict[str, Sequence[int]] = {}


def autocast_activations(op: str, activations: Sequence[int]) -> None:
    """Autocast rule of ``vimzoo::op``: the activations at these positions take the autocast dtype, parameters stay.

    States, step sizes and A are float32 inside the op whatever comes, as in the official mixed-precision code.
    """
    _ACTIVATIONS[op] = activations
    for device, key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):

        def rule(*args: Any, device: str = device, key: str = key, **kwargs: Any) -> Any:
            cast = autocast_inputs(op, args, device)
            with torch._C._ExcludeDispatchKeyGuard(
                torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))
            ):
                return getattr(torch.ops.vimzoo, op)(*cast, **kwargs)

        LIBRARY.impl(op, rule, key)


def autocast_inputs(op: str, args: Sequence[Any], device: str) -> Sequence[Any]:
    """The arguments of ``vimzoo::op`` under the autocast of ``device``; without autocast they stay as they are."""
    if op not in _ACTIVATIONS or not in_autocast(device):
        return args
    dtype = torch.get_autocast_dtype(device)
    return [_narrowed(a, dtype) if i in _ACTIVATIONS[op] else a for i, a in enumerate(args)]
