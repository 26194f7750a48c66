"""Maps the MILA authors' parameter names to ours."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from vimzoo.layers import GatedLinearAttention, MilaBlock, RotaryLinearAttention

from ..staged_names import official_name
from ..weights.dialect import Dialect, Slot

__all__ = ["MILA_NAMES", "holds_mila"]

_POSITIONS = "absolute_pos_embed"
_IN_MIXER = {
    "attention.qk": "attn.qk", "attention.lepe": "attn.lepe", "gate_proj": "act_proj", "conv": "dwc",
}  # fmt: skip
_OFFICIAL = re.compile(
    r"(^|\.)(layers\.\d+\.|attn\.|act_proj\.|dwc\.|norm\d\.(weight|bias)$)|absolute_pos_embed$"
)
_OURS = re.compile(r"(^|\.)(stages|mixer|attention|gate_proj|outnorms)\.")


@dataclass(frozen=True)
class _Positions(Slot):
    """A position embedding: ours ``(1, C, H, W)``, theirs ``(1, H W, C)``."""

    def read(self, tensor: Tensor) -> Tensor:
        return tensor.flatten(2).transpose(1, 2)


def slots(module: nn.Module) -> list[Slot]:
    """Every authors' tensor that a model, block or mixer holds, in the order of our state dict."""
    return [_slot(name, tuple(value.shape)) for name, value in module.state_dict().items()]


def _slot(name: str, stored: tuple[int, ...]) -> Slot:
    if name == "pos_embed":
        return _Positions(_POSITIONS, name, (1, stored[2] * stored[3], stored[1]), stored=stored)
    official = official_name(name, "norm")
    whole = official.startswith(
        ("patch_embed.", "layers.")
    )  # the names of a mixer alone have nothing before them
    before = r"(^|\.)mixer\." if whole else r"(^|\.)(?:mixer\.)?"
    if match := re.search(before + r"(attention\.\w+|gate_proj|conv|in_proj|out_proj)\.(\w+)$", official):
        part = _IN_MIXER.get(match[2], match[2])
        official = f"{official[: match.start()]}{match[1]}{part}.{match[3]}"
    return Slot(official, name, stored, stored=stored)


def is_official(names: Iterable[str]) -> bool:
    """Whether some of these names are the authors' and cannot be ours."""
    return any(_OFFICIAL.search(name) and not _OURS.search(name) for name in names)


def holds_mila(names: Iterable[str]) -> bool:
    """Whether a state dict with these names, the authors' or ours, is a MILA's."""
    return any(re.search(r"\.(attn|mixer\.attention)\.lepe\.weight$", name) for name in names)


def spell(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the tables of angles, which follow from the map; positions of a square as a map."""
    spelled = {name: value for name, value in state.items() if not name.endswith("rope.rotations")}
    positions = spelled.get(_POSITIONS)
    if (
        positions is not None
        and positions.dim() == 3
        and math.isqrt(positions.shape[1]) ** 2 == positions.shape[1]
    ):
        side = math.isqrt(positions.shape[1])
        spelled[_POSITIONS] = positions.transpose(1, 2).unflatten(2, (side, side))
    return spelled


MILA_NAMES = Dialect((MilaBlock, GatedLinearAttention, RotaryLinearAttention), slots, is_official, spell)
