"""Maps the Swin-UMamba authors' parameter names to ours: VMamba's of January 2024, MONAI's, and their own decoder's."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from ..vmamba.names import slots as vmamba_slots
from ..weights.dialect import Slot

__all__ = ["holds_swin_umamba", "is_official", "slots", "spell"]

_THEIRS = (
    (r"(^|\.)patch_embed\.0\.", r"\1patch_embed.proj."),
    (r"(^|\.)patch_embed\.2\.", r"\1patch_embed.norm."),
    (r"(^|\.)layers\.(\d+)\.downsample\.", r"\1downsamples.\2."),
    (r"(blocks\.\d+\.)norm\.", r"\1ln_1."),
    (r"(blocks\.\d+\.)op\.", r"\1self_attention."),
)
"""From the names of VMamba's later releases to those of its first, with the steps between stages in a list."""
_CONVOLUTIONS = (
    (r"\.(conv[12])\.", r".\1.conv."),
    (r"\.shortcut\.", ".conv3.conv."),
    (r"\.shortcut_norm\.", ".norm3."),
    (r"\.expand\.(weight)$", r".transp_conv.conv.\1"),
    (r"^(decoder\d\.)block\.", r"\1conv_block."),
)

_OFFICIAL = re.compile(r"vssm_encoder\.|layers\.|downsamples\.|encoder\d|decoder\d|out_layers\.|decoder\.")


def _renamed(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def slots(module: nn.Module) -> list[Slot]:
    """Every authors' tensor that a model or encoder holds, in the order of our state dict."""
    state = module.state_dict()
    if "patch_embed.conv1.weight" in state:
        return _of_vmamba(module, "")
    known = {slot.ours: slot for slot in _of_vmamba(module.encoder, "encoder.")}  # type: ignore[arg-type]
    if _is_d(state):
        known |= {slot.ours: slot for slot in _of_vmamba(module.ups, "ups.") if ".blocks." in slot.ours}  # type: ignore[arg-type]
    official = _name_in_d if _is_d(state) else _name
    count = sum(bool(re.fullmatch(r"side_heads\.\d+\.weight", name)) for name in state)
    found = []
    for name, tensor in state.items():
        shape = tuple(tensor.shape)
        slot = known.get(name) or Slot(name, name, shape, stored=shape)
        found.append(replace(slot, official=official(slot.official, count)))
    return found


def _of_vmamba(module: nn.Module, prefix: str) -> list[Slot]:
    """Slots of a part that has VMamba's names."""
    return [
        replace(slot, official=prefix + _renamed(slot.official, _THEIRS), ours=prefix + slot.ours)
        for slot in vmamba_slots(module)
    ]


def _name(name: str, count: int) -> str:
    """The authors' name of a tensor of `SwinUMamba`."""
    if match := re.match(r"skips\.(\d+)\.", name):
        name = f"encoder{int(match[1]) + 1}.layer.{name[match.end() :]}"
    elif match := re.match(r"ups\.(\d+)\.", name):
        name = f"decoder{count + 3 - int(match[1])}.{name[match.end() :]}"
    elif match := re.match(r"side_heads\.(\d+)\.", name):
        return f"out_layers.{int(match[1]) + 1}.conv.conv.{name[match.end() :]}"
    elif name.startswith("encoder."):
        return f"vssm_{name}"
    name = re.sub(r"^head\.", "out_layers.0.conv.conv.", re.sub(r"^final\.", "decoder1.layer.", name))
    return _renamed(name, _CONVOLUTIONS) if re.match(r"(en|de)coder\d", name) else name


def _name_in_d(name: str, count: int) -> str:
    """The authors' name of a tensor of `SwinUMambaD`."""
    if name.startswith("encoder."):
        return f"vssm_{name}"
    if match := re.match(r"side_heads\.(\d+)\.", name):
        return f"decoder.seg_layers.{count - 1 - int(match[1])}.{name[match.end() :]}"
    if match := re.match(r"final\.(proj|norm)\.", name):
        part = {"proj": "expand", "norm": "norm"}[match[1]]
        return f"decoder.expand_layers.{count}.{part}.{name[match.end() :]}"
    if match := re.match(r"ups\.(\d+)\.(expand|join|blocks)\.", name):
        rest = name[match.end() :]
        if match[2] == "expand":
            return f"decoder.expand_layers.{match[1]}.{rest.replace('proj.', 'expand.')}"
        if match[2] == "join":
            return f"decoder.concat_back_dim.{match[1]}.{rest}"
        return f"decoder.stages.{match[1]}.blocks.{rest}"
    return re.sub(r"^head\.", f"decoder.seg_layers.{count}.", name)


def _is_d(names: Iterable[str]) -> bool:
    """Whether these names, the authors' or ours, are those of `SwinUMambaD`."""
    return any(re.match(r"ups\.\d+\.join\.|decoder\.concat_back_dim\.", name) for name in names)


def is_official(names: Iterable[str]) -> bool:
    """Whether some of these names are the authors' and cannot be ours."""
    return any(_OFFICIAL.match(name) for name in names)


def holds_swin_umamba(names: Iterable[str]) -> str | None:
    """The class whose state dict has these names, the authors' or ours; None if it is neither."""
    known = list(names)
    if _is_d(known):
        return "SwinUMambaD"
    ours = {"encoder.patch_embed.conv1.weight", "skips.0.conv1.weight"} <= set(known)
    theirs = any(name.startswith("vssm_encoder.") for name in known)
    return "SwinUMamba" if ours or theirs else None


def spell(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An authors' state dict under the names of `slots`; blocks may have the names of VMamba's later releases."""
    return {_renamed(name, _THEIRS): value for name, value in state.items()}
