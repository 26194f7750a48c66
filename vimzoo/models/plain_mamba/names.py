"""Maps the PlainMamba authors' parameter names to ours, of a classifier or of a backbone alone."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from vimzoo.layers import PlainMambaBlock, SnakeSS2D

from ..weights.contents import bare
from ..weights.dialect import Dialect, Slot
from ..weights.grids import fitted_pos_embed

_CORE = {
    "ssm.A_log": "A_log",
    "ssm.D": "D",
    "ssm.x_proj": "x_proj.weight",
    "ssm.dt_proj": "dt_proj.weight",
    "ssm.dt_bias": "dt_proj.bias",
    "moves": "direction_Bs",
    "conv.weight": "conv2d.weight",
    "conv.bias": "conv2d.bias",
}
_OFFICIAL = re.compile(
    r"^backbone\.|(^|\.)(layers\.\d+\.|mamba\.|ln1\.|direction_Bs$|conv2d\.|(A_log|D)$|(x_proj|dt_proj)\.)"
)
_OURS = re.compile(r"(^|\.)(ssm|blocks)\.")


def slots(module: nn.Module) -> list[Slot]:
    """Every authors' tensor that a model, block or mixer holds, in the order of our state dict."""
    state = module.state_dict()
    whole = any(name.startswith("patch_embed.") for name in state)
    return [_slot(name, tuple(value.shape), whole) for name, value in state.items()]


def _slot(name: str, stored: tuple[int, ...], whole: bool) -> Slot:
    official, shape = name, stored
    for ours, theirs in _CORE.items():
        if name == ours or name.endswith(f"mixer.{ours}"):
            official = official[: -len(ours)] + theirs
            shape = stored[1:] if ours.startswith("ssm.") else stored
    official = re.sub(r"(^|\.)mixer\.", r"\1mamba.", official)
    if whole:
        official = re.sub(r"^blocks\.", "layers.", official)
        official = re.sub(r"^patch_embed\.proj\.", "patch_embed.projection.", official)
        official = re.sub(r"^outnorms\.(\d+)\.", r"norm_layer\1.", re.sub(r"^norm\.", "ln1.", official))
        official = official if official.startswith("head.") else f"backbone.{official}"
    return Slot(official, name, shape, stored=stored)


def is_official(names: Iterable[str]) -> bool:
    """Whether some of these names are the authors' and cannot be ours."""
    return any(_OFFICIAL.search(name) and not _OURS.search(name) for name in names)


def holds_plain_mamba(names: Iterable[str]) -> bool:
    """Whether a state dict with these names, the authors' or ours, is a PlainMamba's."""
    return any(re.search(r"(^|\.)(mamba\.direction_Bs|mixer\.moves)$", name) for name in names)


def spell(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names of a whole classifier; those of a backbone alone lack ``backbone.``."""
    alone = any(name.startswith("layers.") for name in state)
    return {
        name if not alone or name.startswith("head.") else f"backbone.{name}": t for name, t in state.items()
    }


def _of_backbone(slot: Slot) -> Slot:
    """The same in the file of a backbone alone."""
    return replace(slot, official=slot.official.removeprefix("backbone."))


def _spelling_of(names: Iterable[str]) -> str | None:
    return "backbone" if any(name.startswith("layers.") for name in names) else None


PLAIN_MAMBA = Dialect(
    (PlainMambaBlock, SnakeSS2D), slots, is_official, spell, {"backbone": _of_backbone}, _spelling_of
)


def checkpoint_filter_fn(
    state_dict: Mapping[str, Any], model: Any, pos_embed_grid: tuple[int, int] | None = None
) -> dict[str, Tensor]:
    """A checkpoint of ours or the authors', under our names and for the model's grid.

    Args:
        state_dict: Tensors by name, in a wrapper such as ``{"state_dict": ...}`` or not.
        model: The model they are for; checkpoints that fit it already are returned unchanged.
        pos_embed_grid: Rows and columns that position embeddings were learned on; by default what the checkpoint says.

    Raises:
        ValueError: the grid that position embeddings were learned on cannot be inferred.
    """
    state_dict, dialect = bare(state_dict), model.dialect
    state = dialect.to_native(state_dict, model) if dialect.is_official(state_dict) else dict(state_dict)
    pos_embed = state.get("pos_embed")
    if pos_embed is not None and model.pos_embed is not None:
        state["pos_embed"] = fitted_pos_embed(state_dict, pos_embed, model, pos_embed_grid)
    return state
