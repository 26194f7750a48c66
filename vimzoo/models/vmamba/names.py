"""Maps the VMamba authors' parameter names to ours: classification, detection and single-file code, old and new."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from vimzoo.layers import SS2D, VSSBlock

from ..map_positions import checkpoint_filter_fn, resize_map
from ..weights.dialect import SS2D_CORE, Dialect, Slot

__all__ = ["VMAMBA", "checkpoint_filter_fn", "holds_vmamba", "is_official", "resize_map", "slots", "spell"]

_OFFICIAL = re.compile(
    r"(^|\.)(layers\.\d+\.|op\.|self_attention\.|classifier\.|outnorm\d+\.|conv2d\."
    r"|(A_logs|Ds|x_proj_weight|x_proj\.weight|dt_projs_weight|dt_projs\.weight|dt_projs_bias)$)"
)
_OURS = re.compile(r"(^|\.)(stages|ss2d|ssm)\.")
_STEM = {"conv1": "0", "norm1": "2", "conv2": "5", "norm2": "7"}
_MERGE, _CONV = {"proj": "reduction", "norm": "norm"}, {"proj": "1", "norm": "3"}
# (pattern, replacement) from other spellings to that of the authors' classification code
_SPELLINGS = (
    (r"^patch_embed\.proj\.", "patch_embed.0."),
    (r"^patch_embed\.norm\.", "patch_embed.2."),
    (r"(^|\.)ln_1\.", r"\1norm."),
    (r"(^|\.)self_attention\.", r"\1op."),
    (r"(^|\.)(x_proj|dt_projs)\.weight$", r"\1\2_weight"),
)


def slots(module: nn.Module) -> list[Slot]:
    """Every authors' tensor that a model, block or SS2D holds, in the order of our state dict."""
    state = module.state_dict()
    whole = any(name.startswith("patch_embed.") for name in state)
    return [_slot(name, state, whole) for name in state]


def _slot(name: str, state: Mapping[str, Tensor], whole: bool) -> Slot:
    stored = tuple(state[name].shape)
    official = name.replace(".bn.", ".")
    if whole:
        official = _outside_blocks(official, state)
    official = re.sub(r"(^|\.)norm1\.", r"\1norm.", re.sub(r"(^|\.)ss2d\.", r"\1op.", official))
    core = re.search(r"(^|\.)ssm\.(\w+)$", official)
    has_heads = core is not None and name[: name.rindex(".")] + ".dt_proj" not in state
    if core is not None:
        official = official[: core.start(2) - len("ssm.")] + SS2D_CORE[core[2]]
        return Slot(official, name, _core_shape(core[2], stored, has_heads, state, name), stored=stored)
    if re.search(r"(^|\.)conv\.(weight|bias)$", official):
        scan = name[: name.rindex("conv.")] + "ssm.dt_proj"
        official = re.sub(r"(^|\.)conv\.", r"\1conv2d." if scan in state else r"\1conv2d.1.", official)
    if re.search(r"(^|\.)out_norm\.weight$", official) and len(stored) == 4:
        official = official.replace("out_norm.", "out_norm.1.")
    elif re.search(r"(^|\.)out_norm\.1\.weight$", official):
        official = official.replace("out_norm.1.", "out_norm.2.")
    return Slot(official, name, stored, stored=stored)


def _outside_blocks(name: str, state: Mapping[str, Tensor]) -> str:
    """The name of a tensor outside blocks; downsampling ends a stage in theirs and starts one in ours."""
    if match := re.match(r"patch_embed\.(\w+)\.(.+)", name):
        return f"patch_embed.{_STEM[match[1]]}.{match[2]}"
    if match := re.match(r"stages\.(\d+)\.downsample\.(\w+)\.(.+)", name):
        merges = state[f"stages.{match[1]}.downsample.proj.weight"].dim() == 2
        part = (_MERGE if merges else _CONV)[match[2]]
        return f"layers.{int(match[1]) - 1}.downsample.{part}.{match[3]}"
    name = re.sub(r"^norm\.", "classifier.norm.", re.sub(r"^head\.fc\.", "classifier.head.", name))
    return re.sub(r"^outnorms\.(\d+)\.", r"outnorm\1.", re.sub(r"^stages\.", "layers.", name))


def _core_shape(
    part: str, stored: tuple[int, ...], heads: bool, state: Mapping[str, Tensor], name: str
) -> tuple[int, ...]:
    """The authors have directions and channels in one axis of ``A_logs`` and ``Ds``, unless they are heads'."""
    if heads:
        rank = state[name[: name.rindex(".")] + ".dt_bias"].shape[1]
        return (stored[0], rank, stored[1] // rank) if part == "D" else stored
    return (stored[0] * stored[1], *stored[2:]) if part in ("A_log", "D") else stored


def is_official(names: Iterable[str]) -> bool:
    """Whether some of these names are the authors' and cannot be ours."""
    return any(_OFFICIAL.search(name) and not _OURS.search(name) for name in names)


def holds_vmamba(names: Iterable[str]) -> bool:
    """Whether a state dict with these names, of any of the authors' files or ours, is a VMamba's."""
    block = re.compile(r"(stages|layers)\.\d+\.blocks\.\d+\.(op|ss2d|self_attention)\.")
    names = list(names)
    # VM-UNet is made of the first release's blocks, others have more in them
    parts = re.compile(r"^(layers_up|up_stages)\.|\.(multi_scan|merge|conv_branch|branch|state_fusion)\.")
    other = any(parts.search(name) for name in names)
    return not other and any(block.match(name) or name.startswith("classifier.head.") for name in names)


def spell(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An authors' state dict under the names of their classification code.

    The first release has ``ln_1``, ``self_attention``, ``norm`` and ``head``; the single file stores projections of
    all directions as one linear layer, and its patch merging by numbers.
    """
    whole = any(name.startswith("layers.") for name in state)
    spelled: dict[str, Tensor] = {}
    for name, value in state.items():
        for pattern, replacement in _SPELLINGS:
            name = re.sub(pattern, replacement, name)
        if whole:
            name = re.sub(r"^(norm|head)\.", r"classifier.\1.", name)
        spelled[name] = value
    for name in list(spelled):
        if match := re.fullmatch(r"(layers\.\d+\.downsample\.)2\.weight", name):
            prefix = match[1]
            spelled[f"{prefix}reduction.weight"] = spelled.pop(name)
            for old in [other for other in spelled if other.startswith(f"{prefix}1.")]:
                spelled[f"{prefix}norm.{old.removeprefix(f'{prefix}1.')}"] = spelled.pop(old)
    return spelled


def _single_file(slot: Slot) -> Slot:
    """The same in the authors' single file."""
    name = slot.official.replace(".downsample.norm.", ".downsample.1.")
    name = name.replace(".downsample.reduction.", ".downsample.2.")
    shape = slot.shape
    if match := re.search(r"(^|\.)(x_proj|dt_projs)_weight$", name):
        name = f"{name[: match.start(2)]}{match[2]}.weight"
        shape = (shape[0] * shape[1], shape[2])
    return replace(slot, official=name, shape=shape)


def _spelling_of(names: Iterable[str]) -> str | None:
    single = any(re.search(r"(^|\.)(x_proj|dt_projs)\.weight$", name) for name in names)
    return "single_file" if single else None


VMAMBA = Dialect((VSSBlock, SS2D), slots, is_official, spell, {"single_file": _single_file}, _spelling_of)
