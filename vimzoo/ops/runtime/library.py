"""The ``vimzoo`` operator library and what its ops share: registration, autocast, gradients of the reference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import backends
from .call import Call, empty
from .contract import Contract

LIBRARY = torch.library.Library("vimzoo", "DEF")
CONTRACTS: dict[str, Contract] = {}
"""The checks of every operator."""
KERNELS: dict[str, Callable[..., Any]] = {}
"""What the dispatcher calls for every operator, which `is_inference` calls may use directly."""


def implement(op: str, call: type[Call], contract: Contract, fake: Callable[..., Any]) -> None:
    """Run ``vimzoo::op`` through `backends.run`, once ``contract`` has accepted its arguments.

    Args:
        op: name of the operator, which ends in ``_backward`` if it is the gradient of another one.
        call: the class of its inputs.
        contract: its checks.
        fake: its fake kernel, called as a backend's functions are, with ``backend`` as a keyword besides.
    """
    inputs = len(contract.names)
    names = call.names(op.endswith("_backward"))
    before = inputs - len(names)
    if tuple(contract.names[before:]) != names:
        raise TypeError(f"{op}: its schema has {contract.names}, {call.__name__} has {names}")
    CONTRACTS[op] = contract

    def kernel(*args: Any) -> Any:
        *checked, backend = args if len(args) > inputs else filled(args, inputs + 1)
        contract.check_once(*checked)
        if not before:
            return backends.run(op, backend, call(*checked))
        return backends.run(op, backend, call(*checked[before:]), *checked[:before])

    def fake_kernel(*args: Any) -> Any:
        args = filled(args, inputs + 1)
        contract.check(*args[:inputs])
        return fake(call(*args[before:inputs]), *args[:before], backend=args[inputs])

    KERNELS[op] = kernel
    LIBRARY.impl(op, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"vimzoo::{op}", fake_kernel, lib=LIBRARY)


def fake_gradients(call: Call, *gradients: Tensor | None, backend: str | None) -> tuple[Tensor, ...]:
    """The fake kernel of a backward operator."""
    return call.like_leaves()


def filled(args: tuple, count: int) -> tuple:
    """``args`` with the trailing arguments that the dispatcher leaves out: those with their default, all ``None``."""
    return args + (None,) * (count - len(args))


def check_tensors(optional: Sequence[str] = (), /, **tensors: Any) -> None:
    """Check that these are tensors, or ``None`` where that is ``optional``; `Contract` checks their shapes and dtypes.

    Objects with ``__torch_function__``, such as the proxies of `torch.fx`, pass for tensors.

    Raises:
        TypeError: an argument is not a tensor.
    """
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) or (tensor is None and name in optional):
            continue
        if not hasattr(tensor, "__torch_function__"):
            raise TypeError(f"{name}: expected a tensor, got {tensor!r} of type {type(tensor).__name__}")


def check_types(expected: str, types: type | tuple[type, ...], /, **given: Any) -> None:
    """Check arguments that are not tensors.

    Args:
        expected: What they should be, for the message.
        types: What they may be instances of.

    Raises:
        TypeError: an argument is something else.
    """
    for name, value in given.items():
        if not isinstance(value, types):
            raise TypeError(f"{name}: expected {expected}, got {value!r} of type {type(value).__name__}")


FLAG = ("True or False", (bool, torch.SymBool))
NUMBER = ("a number", (int, float, torch.SymInt, torch.SymFloat))
NAME = ("a name or None", (str, type(None)))
"""Arguments of `check_types`."""


def is_eager(*tensors: Tensor) -> bool:
    """Whether these are plain tensors and no tracer, compiler, dispatch mode, forward-mode AD or function transform is
    active."""
    return (
        all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in tensors)
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and not torch._C._len_torch_dispatch_stack()
        and not in_forward_mode()
        and torch._C._functorch.peek_interpreter_stack() is None
    )


def is_inference(*tensors: Tensor | None) -> bool:
    """Whether a call needs nothing of torch's dispatcher, whose way through Python costs more than small kernels take.

    That is so for plain CPU tensors under ``torch.no_grad`` or ``torch.inference_mode``, without autocast, profiler or
    any of what `is_eager` excludes.
    """
    if (
        torch.compiler.is_compiling()  # first: the compiler cannot read the others
        or torch.is_grad_enabled()
        or torch._C._len_torch_function_stack()
        or torch.is_autocast_enabled("cpu")
        or torch.autograd._profiler_enabled()
        or not is_eager()
    ):
        return False
    for t in tensors:  # noqa: SIM110  a generator takes twice as long
        if t is not None and not (type(t) in (Tensor, torch.nn.Parameter) and t.is_cpu):
            return False
    return True


def in_forward_mode() -> bool:
    """Whether forward-mode AD is active, so that tensors may have tangents."""
    return forward_ad._current_level >= 0


def gradients_of(function: Callable[[Any], Any], call: Call, grad: Any) -> tuple[Tensor, ...]:
    """Gradients of a reference function by autograd: one for each of the call's ``leaves``, empty for ``None``.

    Args:
        function: takes a call like ``call``.
        grad: gradient of its output, or a tuple of gradients if it has several.
    """
    # Inside an operator autograd may be switched off (under a FLOP counter, say); leaving inference mode switches it
    # on. A backward pass inside an autocast block must not narrow what runs in float32 here.
    with torch.inference_mode(False), torch.enable_grad(), without_autocast(call.first.device.type):
        leaves = [None if t is None else t.detach().requires_grad_() for t in call.leaves]
        outputs = function(call.with_leaves(leaves))
        given = [leaf for leaf in leaves if leaf is not None]
        if isinstance(outputs, tuple):  # the last state of a sequence without steps depends on nothing
            used = [(out, to) for out, to in zip(outputs, grad, strict=True) if out.requires_grad]
            outputs, grad = zip(*used, strict=True)
        found = iter(torch.autograd.grad(outputs, given, grad, allow_unused=True))
    gradients: list[Tensor] = []
    for leaf in leaves:
        gradient = next(found) if leaf is not None else None
        if leaf is None:
            gradients.append(empty(call.first))
        elif gradient is None:
            gradients.append(torch.zeros_like(leaf, memory_format=torch.contiguous_format))
        else:  # autograd may hand the same tensor to both terms of a sum; an op's outputs may not share memory
            shared = any(gradient.data_ptr() == other.data_ptr() for other in gradients)
            gradients.append(
                gradient.clone(memory_format=torch.contiguous_format) if shared else gradient.contiguous()
            )
    return tuple(gradients)


def narrowed(tensor: Any, dtype: torch.dtype) -> Any:
    """An activation in the autocast dtype; complex and float64 ones are left alone, as by torch's own rules."""
    if tensor is None or not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(dtype)


def in_autocast(device: str) -> bool:
    """Whether autocast is on for this type of device; some types, such as ``meta``, have no autocast."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def without_autocast(device: str) -> contextlib.AbstractContextManager:
    """A block in which autocast is off."""
    return torch.autocast(device, enabled=False) if in_autocast(device) else contextlib.nullcontext()


_ACTIVATIONS: dict[str, Sequence[int]] = {}


def autocast_activations(op: str, activations: Sequence[int]) -> None:
    """Autocast rule of ``vimzoo::op``: the activations at these positions take the autocast dtype, parameters stay.

    States, step sizes and A are float32 inside the op in any case, as in the official mixed-precision code.
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
    return [narrowed(a, dtype) if i in _ACTIVATIONS[op] else a for i, a in enumerate(args)]
