"""Runs plain `torch.nn.Linear` layers with this package's matrix product.

Models use `torch.nn.Linear` itself, not a subclass: quantisers and adapters select layers by exact type and replace
them. `apply_linear` calls whichever layer is there.
"""

import copy
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
import torch.nn.modules.module as torch_module
from timm.layers import DropPath
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from vimzoo.ops import linear
from vimzoo.ops.runtime.library import is_eager, is_inference

_Module = TypeVar("_Module", bound=nn.Module)
_FORWARDS: dict[type[nn.Module], Any] = {
    kind: kind.forward
    for kind in (
        nn.Linear, nn.LayerNorm, nn.BatchNorm2d, nn.Conv2d, nn.SiLU, nn.GELU, nn.Identity, nn.Dropout, nn.Sequential
    )
}  # fmt: skip
_FUNCTIONS = {name: getattr(F, name) for name in ("linear", "layer_norm", "conv2d", "silu", "gelu")}
_GLOBAL_HOOKS = tuple(
    getattr(torch_module, f"_global_{name}_hooks")
    for name in ("forward", "forward_pre", "backward", "backward_pre")
)


def apply_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)``, ``(..., I) -> (..., O)``; on the CPU with oneDNN, see `vimzoo.ops.linear`.

    This applies to a plain `torch.nn.Linear`. A quantised layer, an adapter, or a layer with hooks, a parametrization
    or a tensor subclass as its weight is simply called; so is every layer under a tracer, a compiler or a mode that
    watches calls of torch functions. TorchScript cannot compile this function: a ``forward`` that is to be scripted
    calls the layer itself there.
    """
    if is_plain(layer, nn.Linear) and is_eager(x, layer.weight) and not calls_are_watched():  # type: ignore[arg-type]
        return linear(x, layer.weight, layer.bias)  # type: ignore[arg-type]
    return layer(x)


def is_plain(layer: nn.Module | None, kind: type[nn.Module]) -> bool:
    """Whether calling ``layer`` would run the ``forward`` of the class ``kind`` and nothing else."""
    if type(layer) is not kind or kind.forward is not _FORWARDS.get(kind, kind.forward):
        return False
    own = layer.__dict__
    hooked = own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"]
    return not (hooked or own["_backward_pre_hooks"] or "forward" in own or any(_GLOBAL_HOOKS))


def has_a_fast_form(kind: type[_Module]) -> type[_Module]:
    """Class decorator of layers that may run as part of a larger call: `is_plain` then tells if their ``forward`` was
    replaced."""
    _FORWARDS[kind] = kind.forward
    return kind


def passes_on(drop_path: Any) -> bool:
    """Whether a `DropPath`, or what stands in its place, returns its input."""
    kind = type(drop_path)
    return is_plain(drop_path, kind) and (
        kind is nn.Identity or (kind is DropPath and not drop_path.training)
    )


def tensor_of(layer: nn.Module, name: str) -> Any:
    """``layer.NAME``, without the detour by which a module finds its parameters."""
    own = layer._parameters
    return own[name] if name in own else getattr(layer, name)


def calls_are_watched() -> bool:
    """Whether functions of torch have been replaced, as some profilers do, or a mode of torch functions is active.

    The mode of ``torch.device`` and ``torch.set_default_device``, which concerns new tensors, does not count.
    """
    if functions_are_replaced():
        return True
    if not torch._C._len_torch_function_stack():
        return False
    return any(not isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())


def runs_in_one_call(x: Tensor) -> bool:
    """Whether layers that are `is_plain` may run in one call of C: nothing has to see torch's operators on ``x``."""
    return is_inference(x) and not functions_are_replaced()


def functions_are_replaced() -> bool:
    """Whether ``F.linear`` or another function that layers here do without is not torch's own any more."""
    return any(getattr(F, name) is not function for name, function in _FUNCTIONS.items())


class Linear(nn.Linear):
    """`torch.nn.Linear`, same parameters and results, that uses `vimzoo.ops.linear` in TorchScript too."""

    def forward(self, input: Tensor) -> Tensor:
        """``(..., I) -> (..., O)``.

        Raises:
            ValueError: ``input`` has another width or dtype.
        """
        return linear(input, self.weight, self.bias)


def with_fast_linears(model: nn.Module) -> nn.Module:
    """A copy for TorchScript: every plain `torch.nn.Linear` in it is a `Linear`, with the same parameters."""
    model = copy.deepcopy(model)
    for layer in model.modules():
        if is_plain(layer, nn.Linear):
            layer.__class__ = Linear
    return model
