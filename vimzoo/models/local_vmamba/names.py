"""Maps the LocalVMamba authors' parameter names to ours: VMamba's of the first release, and those of the merging."""

import re
from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from vimzoo.layers import LocalSS2D, LocalVSSBlock

from ..vmamba.names import checkpoint_filter_fn, is_official, spell
from ..vmamba.names import slots as vmamba_slots
from ..weights.dialect import Dialect, Slot

__all__ = ["LOCAL_VMAMBA", "checkpoint_filter_fn", "holds_local_vmamba"]

_MERGE = {"norm": "norm", "reduce": "global_reduce", "select": "channel_select"}


def slots(module: nn.Module) -> list[Slot]:
    """Every authors' tensor that a model, block or mixer holds, in the order of our state dict."""
    return [_merging(slot) for slot in vmamba_slots(module)]


def _merging(slot: Slot) -> Slot:
    official = re.sub(
        r"(^|\.)merge\.(\w+)\.(weight|bias)$",
        lambda match: f"{match[1]}multi_scan.attn.{_MERGE[match[2]]}.{match[3]}",
        slot.official,
    )
    if official.endswith("merge.weights"):
        return replace(slot, official=official.replace("merge.", "multi_scan."), shape=(*slot.shape, 1))
    return replace(slot, official=official)


def is_theirs(names: Iterable[str]) -> bool:
    """Whether some of these names are the authors' and cannot be ours."""
    names = list(names)
    return is_official(names) or any(re.search(r"(^|\.)multi_scan\.", name) for name in names)


def holds_local_vmamba(names: Iterable[str]) -> bool:
    """Whether a state dict with these names, the authors' or ours, is a LocalVMamba's."""
    block = re.compile(r"(stages|layers)\.\d+\.blocks\.\d+\.(op\.multi_scan|ss2d\.merge)\.")
    return any(block.match(name) for name in names)


LOCAL_VMAMBA = Dialect((LocalVSSBlock, LocalSS2D), slots, is_theirs, spell)
