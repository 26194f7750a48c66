"""Maps a paper's authors' parameter names to ours: each of their tensors is a part of one of ours.

We stack the directions of a scan, some authors keep one tensor per direction, others a flat one. A `Slot` says
where one tensor of theirs is in ours, a `Dialect` gives the slots of every module of a family.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

SS2D_CORE = {
    "A_log": "A_logs",
    "D": "Ds",
    "x_proj": "x_proj_weight",
    "dt_proj": "dt_projs_weight",
    "dt_bias": "dt_projs_bias",
}
"""Our names of the stacked parameters of a scan -> the VMamba authors', which MambaIR's authors took over."""


@dataclass(frozen=True)
class Slot:
    """One tensor of the authors': slice ``index`` along ``axis`` of our tensor ``ours``, or all of it.

    ``shape`` is theirs; ``stored`` is that of the slice, or of all, where the same numbers have another shape. With
    ``length`` ours is theirs one after the other along ``axis``, pieces of so many slices.
    """

    official: str
    ours: str
    shape: tuple[int, ...]
    axis: int = 0
    index: int | None = None
    stored: tuple[int, ...] | None = None
    length: int | None = None

    def read(self, tensor: Tensor) -> Tensor:
        """The authors' tensor out of ours (or out of its gradient)."""
        if self.index is None:
            part = tensor
        elif self.length is None:
            part = tensor.select(self.axis, self.index)
        else:
            part = tensor.narrow(self.axis, self.index * self.length, self.length)
        return part.reshape(self.shape)

    def fits(self, tensor: Tensor) -> bool:
        """Whether an authors' tensor has this shape, flat along the first axes or as a 1 x 1 convolution or not."""
        forms = {self.shape}
        if self.stored is not None:
            forms |= {self.stored, (*self.shape, 1, 1)}
            forms |= {
                (math.prod(form[:-1]), form[-1]) for form in (self.shape, self.stored) if len(form) == 3
            }
        return tuple(tensor.shape) in forms


@dataclass(frozen=True)
class Dialect:
    """The authors' names of one family.

    Attributes:
        modules: Classes of ours that it has names for.
        slots: Every authors' tensor that a module holds, in the order of our state dict.
        is_official: Function from names to whether some are the authors' and cannot be ours.
        spell: Function that rewrites an authors' state dict to the spelling of ``slots``, without tensors that we do
            not store.
        spellings: Other spellings that can be written back, as changes of a slot.
        spelling_of: Which of them, if any, these names are in.
        constants: The authors' tensors of a module that we do not store, because they never change.
    """

    modules: tuple[type[nn.Module], ...]
    slots: Callable[[nn.Module], list[Slot]]
    is_official: Callable[[Iterable[str]], bool]
    spell: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    spellings: Mapping[str, Callable[[Slot], Slot]] = field(default_factory=dict)
    spelling_of: Callable[[Iterable[str]], str | None] = lambda names: None
    constants: Callable[[nn.Module], dict[str, Tensor]] = lambda module: {}

    def groups(self, module: nn.Module) -> dict[str, list[Slot]]:
        """The slots by our tensor."""
        groups: dict[str, list[Slot]] = {}
        for slot in self.slots(module):
            groups.setdefault(slot.ours, []).append(slot)
        return groups

    def to_native(self, state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
        """An authors' state dict under our names; unknown names are kept.

        Raises:
            ValueError: one of our tensors lacks some of its directions, or their shapes differ.
        """
        remaining = self.spell(state)
        converted: dict[str, Tensor] = {}
        problems: list[str] = []
        for ours, group in self.groups(module).items():
            found = {
                slot.official: remaining.pop(slot.official) for slot in group if slot.official in remaining
            }
            if not found:
                continue
            missing = [slot.official for slot in group if slot.official not in found]
            wrong = [
                f"{slot.official} has shape {tuple(found[slot.official].shape)} instead of {slot.shape}"
                for slot in group
                if slot.index is not None and slot.official in found and not slot.fits(found[slot.official])
            ]
            problems += [f"{name} is missing" for name in missing] + wrong
            if not missing and not wrong:
                converted[ours] = _join(group, list(found.values()))
        if problems:
            more = f"; and {len(problems) - 4} more" if len(problems) > 4 else ""
            raise ValueError("; ".join(problems[:4]) + more)
        return {**converted, **remaining}


def _join(group: list[Slot], parts: list[Tensor]) -> Tensor:
    slot, part = group[0], parts[0]
    if slot.index is None:
        return part if slot.stored is None else _in_shape(part, slot, slot.stored)
    if slot.axis == 1 or slot.length is not None:
        return torch.cat(parts, dim=slot.axis)
    if slot.stored is not None:
        return torch.stack([part.reshape(slot.stored) for part in parts])
    # A depthwise convolution's (E, 1, W) loses its middle axis; other tensors are stacked unchanged
    return torch.stack([part.squeeze(1) if part.dim() == 3 else part for part in parts])


def _in_shape(part: Tensor, slot: Slot, stored: tuple[int, ...]) -> Tensor:
    if slot.fits(part):
        return part.reshape(stored)
    if len(stored) == part.dim() + 1 and part.shape[0] % stored[0] == 0:
        return part.unflatten(0, (stored[0], -1))  # another width: the loader reports it
    return part
