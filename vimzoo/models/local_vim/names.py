"""Maps the LocalVim authors' parameter names to ours: theirs number the directions, ours stack them."""

import re
from collections.abc import Iterable

from torch import nn

from vimzoo.layers import LocalMamba

from ..vim.names import checkpoint_filter_fn, without_tables
from ..weights.dialect import Dialect, Slot

__all__ = ["LOCAL_VIM", "checkpoint_filter_fn", "holds_local_vim"]

_STACKED = {
    "ssm.A_log": "A_log_{}",
    "ssm.D": "D_{}",
    "ssm.x_proj": "x_proj_{}.weight",
    "ssm.dt_proj": "dt_proj_{}.weight",
    "ssm.dt_bias": "dt_proj_{}.bias",
    "conv.weight": "conv1d_{}.weight",
    "conv.bias": "conv1d_{}.bias",
}
_MERGE = {"norm": "attn.norm", "reduce": "attn.global_reduce", "select": "attn.channel_select"}
_OFFICIAL = re.compile(
    r"(^|\.)(layers\.\d+\.|norm_f\.|outnorm_\d+\.|(A_log|D|x_proj|dt_proj|conv1d)_\d|attn\.|multi_scan\.)"
)
_OURS = re.compile(r"(^|\.)(ssm|merge|blocks)\.")


def slots(module: nn.Module) -> list[Slot]:
    """Every authors' tensor that ``module`` holds, in the order of our state dict."""
    state = module.state_dict()
    whole = any(name.startswith("blocks.") for name in state)
    return [slot for name, value in state.items() for slot in _slots_of(name, tuple(value.shape), whole)]


def _slots_of(name: str, shape: tuple[int, ...], whole: bool) -> list[Slot]:
    official = name
    if whole:
        official = re.sub(r"^norm\.", "norm_f.", re.sub(r"^blocks\.", "layers.", name))
        official = re.sub(r"^outnorms\.(\d+)\.", r"outnorm_\1.", official)
    for ours, theirs in _STACKED.items():
        if name == ours or name.endswith(f"mixer.{ours}"):
            prefix = official[: -len(ours)]
            inner = (shape[1], 1, shape[2]) if ours == "conv.weight" else shape[1:]
            return [Slot(prefix + theirs.format(k), name, inner, 0, k) for k in range(shape[0])]
    if name.endswith("merge.weights"):
        return [Slot(official.replace("merge.", "multi_scan."), name, (*shape, 1), stored=shape)]
    official = re.sub(r"(^|\.)merge\.(\w+)\.", lambda match: f"{match[1]}{_MERGE[match[2]]}.", official)
    return [Slot(official, name, shape)]


def is_official(names: Iterable[str]) -> bool:
    """Whether some of these names are the authors' and cannot be ours."""
    return any(_OFFICIAL.search(name) and not _OURS.search(name) for name in names)


def holds_local_vim(names: Iterable[str]) -> bool:
    """Whether a state dict with these names, the authors' or ours, is a LocalVim's."""
    return any(re.match(r"(layers|blocks)\.\d+\.mixer\.(attn|merge)\.", name) for name in names)


LOCAL_VIM = Dialect((LocalMamba,), slots, is_official, without_tables)
