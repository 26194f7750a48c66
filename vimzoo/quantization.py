"""Whole models with weights of 8 or 4 bits."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn

from .layers.linear import is_plain
from .layers.quantized import QuantizedLinear

__all__ = ["KINDS", "quantize"]

KINDS: dict[str, dict[str, Any]] = {
    "int8": {"bits": 8},
    "int8-dynamic": {"bits": 8, "activations": "int8"},
    "int4": {"bits": 4, "group": 32, "symmetric": False},
}
"""How `quantize` rounds the linear layers, by name: options of `vimzoo.layers.QuantizedLinear`."""


@torch.no_grad()
def quantize(model: nn.Module, kind: str, *, exclude: Iterable[str] = ()) -> nn.Module:
    """A copy of a model whose linear layers have weights of 8 or 4 bits.

        small = vimzoo.quantize(model, "int8-dynamic")
        torch.save(small.state_dict(), "small.pt")
        again = vimzoo.quantize(timm.create_model("vim_tiny_patch16_224"), "int8-dynamic")
        again.load_state_dict(torch.load("small.pt"))

    | kind | weights | activations |
    | --- | --- | --- |
    | ``"int8"`` | 8 bits, a scale for each output | as they are |
    | ``"int8-dynamic"`` | 8 bits, a scale for each output | 8 bits, a scale for each token, found at every call |
    | ``"int4"`` | 4 bits, scale and offset for every 32 inputs | as they are |

    Convolutions, norms, and the scan with its parameters stay as they are, and so do layers that are not a plain
    `torch.nn.Linear`, such as those with adapters or hooks. The copy is in evaluation mode.

    Args:
        model: Any module, with its trained weights.
        kind: One of the above.
        exclude: Names or patterns (``"head"``, ``"stages.0.*"``) of layers to leave as they are.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: ``kind`` is unknown, a pattern fits no linear layer, the model has no linear layer, or a weight
            holds NaN or infinity.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a module, got {type(model).__name__}")
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    linears = [name for name, layer in model.named_modules() if is_plain(layer, nn.Linear)]
    left = set()
    for pattern in [exclude] if isinstance(exclude, str) else exclude:
        found = {name for name in linears if fnmatch(name, pattern)}
        if not found:
            raise ValueError(f"exclude: expected names or patterns of linear layers, got {pattern!r}")
        left |= found
    chosen = [name for name in linears if name not in left]
    if not chosen:
        raise ValueError("model: expected linear layers, found none to quantize")
    model = copy.deepcopy(model).eval()
    for name in chosen:
        layer = model.get_submodule(name)
        try:
            small: nn.Module = QuantizedLinear(layer, **KINDS[kind])  # type: ignore[arg-type]
        except ValueError as error:
            raise ValueError(f"{name}.{error}") from None
        if not name:
            return small.eval()
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, small.eval())
    return model
