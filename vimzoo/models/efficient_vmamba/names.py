"""Maps the EfficientVMamba authors' parameter names to ours: VMamba's, and those of convolutions."""

import re
from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from vimzoo.layers import AtrousBlock, AtrousSS2D

from ..vmamba.names import checkpoint_filter_fn, is_official, spell
from ..vmamba.names import slots as vmamba_slots
from ..weights.dialect import Dialect, Slot

__all__ = ["EFFICIENT_VMAMBA", "checkpoint_filter_fn", "holds_efficient_vmamba"]

_GATE = {"norm": "norm", "reduce": "global_reduce", "select": "channel_select"}
_RESIDUAL = {
    "conv_pw": "conv_pw.0", "bn1": "conv_pw.1", "conv_dw": "conv_dw.0", "bn2": "conv_dw.1", "se": "se",
    "conv_pwl": "conv_pw2.0", "bn3": "conv_pw2.1",
}  # fmt: skip


def slots(module: nn.Module) -> list[Slot]:
    """Every authors' tensor that a model, block or mixer holds, in the order of our state dict."""
    found = vmamba_slots(module)
    depths: dict[str, int] = {}  # of the stages of convolutions
    for slot in found:
        if match := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.block\.", slot.ours):
            depths[match[1]] = int(match[2]) + 1
    return [replace(slot, official=_theirs(slot.official, depths)) for slot in found]


def _theirs(name: str, depths: dict[str, int]) -> str:
    """Stages of convolutions are flat: a permutation, the blocks, a permutation, the downsampling."""
    if match := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.block\.(\w+)\.(.+)", name):
        return f"layers.{match[1]}.{int(match[2]) + 1}.{_RESIDUAL[match[3]]}.{match[4]}"
    if (match := re.match(r"layers\.(\d+)\.downsample\.(.+)", name)) and match[1] in depths:
        return f"layers.{match[1]}.{depths[match[1]] + 2}.{match[2]}"
    name = re.sub(r"(^|\.)op\.branch\.", r"\1conv_branch.", name)
    return re.sub(r"(^|\.)op\.channel_gate\.(\w+)\.", lambda m: f"{m[1]}se.{_GATE[m[2]]}.", name)


def holds_efficient_vmamba(names: Iterable[str]) -> bool:
    """Whether a state dict with these names, the authors' or ours, is an EfficientVMamba's."""
    block = re.compile(r"(stages|layers)\.\d+\.blocks\.\d+\.(conv_branch|ss2d\.branch)\.")
    return any(block.match(name) for name in names)


EFFICIENT_VMAMBA = Dialect((AtrousBlock, AtrousSS2D), slots, is_official, spell)
