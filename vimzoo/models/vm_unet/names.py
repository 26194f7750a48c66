"""Maps the VM-UNet authors' parameter names to ours: VMamba's of January 2024, and those of a decoder."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from ..vmamba.names import slots as vmamba_slots
from ..weights.dialect import Slot

__all__ = ["holds_vm_unet", "is_official", "slots", "spell"]

_THEIRS = (
    (r"^patch_embed\.0\.", "patch_embed.proj."),
    (r"^patch_embed\.2\.", "patch_embed.norm."),
    (r"(blocks\.\d+\.)norm\.", r"\1ln_1."),
    (r"(blocks\.\d+\.)op\.", r"\1self_attention."),
)
"""From the names of VMamba's later releases to those of its first, which VM-UNet's files have."""
_DECODER = (
    (r"^up_stages\.(\d+)\.expand\.proj\.", r"layers_up.\1.upsample.expand."),
    (r"^up_stages\.(\d+)\.expand\.norm\.", r"layers_up.\1.upsample.norm."),
    (r"^up_stages\.", "layers_up."),
    (r"^final\.proj\.", "final_up.expand."),
    (r"^final\.norm\.", "final_up.norm."),
    (r"^head\.", "final_conv."),
)


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def slots(module: nn.Module) -> list[Slot]:
    """Every authors' tensor that a model holds, in the order of our state dict."""
    return [
        replace(slot, official=_renamed(_renamed(slot.official, _DECODER), _THEIRS))
        for slot in vmamba_slots(module)
    ]


def is_official(names: Iterable[str]) -> bool:
    """Whether some of these names are the authors' and cannot be ours."""
    return any(name.startswith(("layers_up.", "layers.", "final_up.")) for name in names)


def holds_vm_unet(names: Iterable[str]) -> bool:
    """Whether a state dict with these names, the authors' or ours, is a VM-UNet's."""
    return any(re.match(r"(layers_up|up_stages)\.\d+\.blocks\.", name) for name in names)


def spell(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An authors' state dict under the names of `slots`; blocks may have the names of VMamba's later releases."""
    return {_renamed(name, _THEIRS): value for name, value in state.items()}
