"""Maps the GroupMamba authors' parameter names to ours: they keep one mixer per group, we stack the four."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from vimzoo.layers.grouped import GROUPS, GroupBlock, GroupClassBlock, GroupSS2D

from ..weights.dialect import SS2D_CORE, Dialect, Slot

_OFFICIAL = re.compile(r"(^|\.)(mamba_g\d|dwconv)\.|^(patch_embed|block)\d\.|^(post_network|dist_head)\.")
_OURS = re.compile(r"(^|\.)(stages|ssm|mixer)\.")
_GROUPED = re.compile(r"(^|\.)((?:in_proj|out_norm|out_proj)\.\w+|conv\.(?:weight|bias)|ssm\.\w+)$")
_OUTSIDE = (
    (r"^patch_embed\.", "patch_embed1."),
    (r"^head\.block\.", "post_network.0."),
    (r"^head\.fc\.", "head."),
    (r"^head\.fc_dist\.", "dist_head."),
)
_INSIDE = ((r"(^|\.)mixer\.", r"\1attn."), (r"(^|\.)mlp\.conv\.", r"\1mlp.dwconv.dwconv."))


def slots(module: nn.Module) -> list[Slot]:
    """Every authors' tensor that a model, block or mixer holds, in the order of our state dict."""
    state = module.state_dict()
    count = len({name.split(".")[1] for name in state if name.startswith("stages.")})
    found: list[Slot] = []
    for name, value in state.items():
        stored = tuple(value.shape)
        match = _GROUPED.search(name)
        if match and f"{name[: match.start(2)]}skip_scale" in state:
            prefix = _renamed(name[: match.start(2)], count)
            found += [_of_group(k, prefix, match[2], name, stored) for k in range(GROUPS)]
        else:
            found.append(Slot(_renamed(name, count), name, stored))
    return found


def _of_group(k: int, prefix: str, part: str, name: str, stored: tuple[int, ...]) -> Slot:
    """Group ``k``'s piece of our tensor ``name``, called ``part`` in its mixer."""
    group = f"{prefix}mamba_g{k + 1}."
    if part.startswith("conv."):
        length = stored[0] // GROUPS
        return Slot(
            f"{group}{part.replace('conv.', 'conv2d.')}", name, (length, *stored[1:]), 0, k, length=length
        )
    core = part.removeprefix("ssm.")
    if core == part:
        return Slot(group + part, name, stored[1:], 0, k)
    shape = stored[1:] if core in ("A_log", "D") else (1, *stored[1:])
    return Slot(group + SS2D_CORE[core], name, shape, 0, k, stored=stored[1:])


def _renamed(name: str, stages: int) -> str:
    """The authors' name of a tensor that belongs to no group."""
    if match := re.match(r"stages\.(\d+)\.(\w+)\.(.+)", name):
        number = int(match[1]) + 1
        if match[2] == "blocks":
            name = re.sub(r"^(\d+)\.norm\.", r"\1.norm2.", match[3])
            name = f"block{number}.{name}"
        else:
            name = f"{'norm' if match[2] == 'norm' else 'patch_embed'}{number}.{match[3]}"
    name = re.sub(r"^head\.pre_norm\.", f"norm{stages}.", name)
    for pattern, replacement in (*_OUTSIDE, *_INSIDE):
        name = re.sub(pattern, replacement, name)
    return name


def is_official(names: Iterable[str]) -> bool:
    """Whether some of these names are the authors' and cannot be ours."""
    return any(_OFFICIAL.search(name) and not _OURS.search(name) for name in names)


def holds_group_mamba(names: Iterable[str]) -> bool:
    """Whether a state dict with these names, the authors' or ours, is a GroupMamba's."""
    return any(re.search(r"(^|\.)(attn|mixer)\.skip_scale$", name) for name in names)


def spell(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An authors' state dict; it has one spelling."""
    return dict(state)


GROUP_MAMBA = Dialect((GroupBlock, GroupClassBlock, GroupSS2D), slots, is_official, spell)
