"""Maps the U-Mamba authors' parameter names to ours: nnU-Net's, and those of a plain Mamba."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from vimzoo.layers import BiMamba

from ..vim.names import VIM
from ..weights.dialect import Slot

__all__ = ["holds_u_mamba", "is_official", "slots", "spell"]

_RULES = (
    (r"^(stem|stages|mixers)\.", r"encoder.\1."),
    (r"^up_stages\.", "decoder.stages."),
    (r"^ups\.(\d+)\.", r"decoder.upsample_layers.\1.conv."),
    (r"^deep_heads\.(\d+)\.", r"decoder.seg_layers.\1."),
    (r"((?:stem|stages\.\d+)\.0)\.shortcut\.", r"\1.conv3."),
    (r"((?:stem|stages\.\d+)\.[1-9]\d*)\.(conv|norm)([12])\.", r"\1.conv\3.\2."),
    (r"^encoder\.mixers\.(\d+)\.", r"encoder.mamba_layers.\1."),
)


def _official(name: str, bottleneck: int | None, finest: int) -> str:
    name = re.sub(r"^head\.", f"decoder.seg_layers.{finest}.", name)
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    if bottleneck is not None:
        name = name.replace(f"encoder.mamba_layers.{bottleneck}.", "mamba_layer.")
    return name


def slots(module: nn.Module) -> list[Slot]:
    """Every authors' tensor that a network, or one of its layers of mixers, holds."""
    finest = len(getattr(module, "ups", ())) - 1
    # the one mixer is no part of the encoder there
    bottleneck = finest + 1 if getattr(module, "mamba", "") == "bottleneck" else None
    found: list[Slot] = []
    mixers = {name: part for name, part in module.named_modules() if isinstance(part, BiMamba)}
    for name, value in module.state_dict().items():
        if not any(name.startswith(f"{prefix}.") for prefix in mixers):
            found.append(Slot(_official(name, bottleneck, finest), name, tuple(value.shape)))
    for prefix, mixer in mixers.items():
        theirs = f"{_official(f'{prefix}.', bottleneck, finest).removesuffix('mixer.')}mamba"
        for slot in VIM.slots(mixer):
            found.append(replace(slot, official=f"{theirs}.{slot.official}", ours=f"{prefix}.{slot.ours}"))
    return found


def is_official(names: Iterable[str]) -> bool:
    """Whether some of these names are the authors' and cannot be ours."""
    return any(re.match(r"(encoder\.stem|decoder\.stages|mamba_layer|mamba)\.", name) for name in names)


def spell(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An authors' state dict without what it holds twice: the encoder in the decoder, and layers in a list of all."""
    return {
        name: value
        for name, value in state.items()
        if not name.startswith("decoder.encoder.") and ".all_modules." not in name
    }


def holds_u_mamba(names: Iterable[str]) -> bool:
    """Whether a state dict with these names, the authors' or ours, is a U-Mamba's."""
    known = list(names)
    ours = any(re.match(r"mixers\.\d+\.mixer\.", name) for name in known)
    return ours or any(re.match(r"(encoder\.mamba_layers\.\d+|mamba_layer)\.mamba\.", name) for name in known)
