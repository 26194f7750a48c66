"""Maps the TimeMachine authors' parameter names to ours: their own, and those of a plain Mamba."""

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from vimzoo.layers import BiMamba

from ..vim.names import VIM
from ..weights.dialect import Slot

__all__ = ["holds_time_machine", "is_official", "slots"]

_NORM = {"scale": "revin_layer.affine_weight", "shift": "revin_layer.affine_bias"}


def slots(module: nn.Module) -> list[Slot]:
    """Every authors' tensor: those of the four mixers as Vim's authors name them."""
    mixers = {name: part for name, part in module.named_children() if isinstance(part, BiMamba)}
    found = [
        Slot(_NORM.get(name, name), name, tuple(value.shape))
        for name, value in module.state_dict().items()
        if name.partition(".")[0] not in mixers
    ]
    for prefix, mixer in mixers.items():
        for slot in VIM.slots(mixer):
            found.append(replace(slot, official=f"{prefix}.{slot.official}", ours=f"{prefix}.{slot.ours}"))
    return found


def is_official(names: Iterable[str]) -> bool:
    """Whether some of these names are the authors' and cannot be ours."""
    return any(name.startswith(("revin_layer.", "mamba1.A_log")) for name in names)


def holds_time_machine(names: Iterable[str]) -> bool:
    """Whether a state dict with these names, the authors' or ours, is a TimeMachine's."""
    return {"lin4.weight", "mamba4.in_proj.weight"} <= set(names)
