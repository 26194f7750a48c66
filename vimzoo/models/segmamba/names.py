"""Maps the SegMamba authors' parameter names to ours; mixers as Vim's authors name them, with a third direction."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from vimzoo.layers import BiMamba

from ..vim.names import VIM
from ..weights.contents import bare
from ..weights.dialect import Dialect, Slot

__all__ = ["SEGMAMBA", "checkpoint_filter_fn"]

_ENCODER = (
    (r"^encoder\.stages\.(\d+)\.down\.", r"vit.downsample_layers.\1."),
    (r"^encoder\.stages\.(\d+)\.gate\.", r"vit.gscs.\1."),
    (r"^encoder\.stages\.(\d+)\.mlp\.", r"vit.mlps.\1."),
    (r"^encoder\.stages\.(\d+)\.blocks\.", r"vit.stages.\1."),
    (r"^(vit\.downsample_layers\.0\.)", r"\g<1>0."),
)
_RULES = (
    *_ENCODER,
    (r"(gscs\.\d+\.|^)conv1\.(weight|bias)$", r"\1proj.\2"),
    (r"(gscs\.\d+\.|^)conv2\.(weight|bias)$", r"\1proj2.\2"),
    (r"(gscs\.\d+\.|^)pointwise\.", r"\1proj3."),
    (r"(gscs\.\d+\.|^)mixed\.", r"\1proj4."),
    (r"^(ups\.\d+)\.up\.", r"\1.transp_conv.conv."),
    (r"^(ups\.\d+)\.convs\.", r"\1.conv_block."),
    (r"^(skips\.\d+|last)\.", r"\1.layer."),
    (r"^((?:ups|skips|last)\..+)\.conv([12])\.", r"\1.conv\2.conv."),
    (r"^((?:ups|skips|last)\..+)\.shortcut\.", r"\1.conv3.conv."),
    (r"^last\.", "decoder1."),
    (r"^head\.", "out.conv.conv."),
)
"""From our names to the authors'; what stands alone, such as a `GatedConv`, has no prefix."""


def _official(name: str, whole: bool) -> str:
    if not whole:  # an encoder alone
        name = re.sub(r"^stages\.", "encoder.stages.", name)
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    if match := re.match(r"skips\.(\d+)\.(.+)", name):
        name = f"encoder{int(match[1]) + 1}.{match[2]}"
    if match := re.match(r"ups\.(\d+)\.(.+)", name):
        name = f"decoder{5 - int(match[1])}.{match[2]}"
    return name if whole else name.removeprefix("vit.")


def slots(module: nn.Module) -> list[Slot]:
    """Every authors' tensor that a module holds."""
    mixers = {name: part for name, part in module.named_modules() if isinstance(part, BiMamba)}
    whole = any(name.startswith("encoder.") for name in module.state_dict())
    found = [
        Slot(_official(name, whole), name, tuple(value.shape))
        for name, value in module.state_dict().items()
        if not any(name.startswith(f"{prefix}.") for prefix in mixers)
    ]
    for prefix, mixer in mixers.items():
        theirs = _official(f"{prefix}.", whole).removesuffix("mixer.") + "mamba"
        for slot in VIM.slots(mixer):
            found.append(replace(slot, official=f"{theirs}.{slot.official}", ours=f"{prefix}.{slot.ours}"))
    return found


def is_official(names: Iterable[str]) -> bool:
    """Whether some of these names are the authors' and cannot be ours."""
    pattern = re.compile(r"(vit|decoder\d|encoder\d|downsample_layers|gscs|mamba)\.|proj\d?\.(weight|bias)$")
    return any(pattern.match(name) or ".mamba." in name for name in names)


SEGMAMBA = Dialect((), slots, is_official, dict)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint of ours or the authors', bare or in a wrapper, under our names."""
    state = dict(bare(state_dict))
    return SEGMAMBA.to_native(state, model) if is_official(state) else state
