"""Buffers that are not in the state dict because they follow from a module's arguments."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class DerivedBuffers(nn.Module):
    """A module that computes its non-persistent buffers when it leaves the meta device.

    No checkpoint holds such buffers, so a model made on the meta device would keep uninitialised memory for them. They
    are computed after ``to_empty`` and after ``load_state_dict(..., assign=True)``. ``to_empty`` of a model that is
    on another device forgets them: call ``init_non_persistent_buffers`` of its modules then, timm's convention.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_leave_meta)

    def init_non_persistent_buffers(self) -> None:
        """Compute the buffers in place."""
        raise NotImplementedError

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "DerivedBuffers":
        had_no_values = _any_on_meta(self)
        super()._apply(fn, recurse)
        if had_no_values and not _any_on_meta(self):
            self.init_non_persistent_buffers()
        return self


def _any_on_meta(module: nn.Module) -> bool:
    return any(tensor is not None and tensor.is_meta for tensor in module._buffers.values())


def _leave_meta(module: nn.Module, incompatible: Any) -> None:
    """Allocate meta buffers on the parameters' device, after ``load_state_dict(..., assign=True)`` for instance."""
    device = next((parameter.device for parameter in module.parameters()), None)
    lost = {name: t for name, t in module._buffers.items() if t is not None and t.is_meta}
    if not lost or device is None or device.type == "meta":
        return
    for name, tensor in lost.items():
        module._buffers[name] = torch.empty_like(tensor, device=device)
    module.init_non_persistent_buffers()  # type: ignore[operator]
