"""Maps the Vim authors' parameter names to ours, for whole models, dense backbones and single mixers.

The authors keep one tensor per direction, we stack the directions: ``A_log`` and ``A_b_log`` are two slices
of one ``ssm.A_log``. ``A_s_log`` is SegMamba's third direction.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from vimzoo.layers import BiMamba

from ..weights.contents import bare
from ..weights.dialect import Dialect, Slot
from ..weights.grids import fitted_pos_embed

_STACKED = {
    "ssm.A_log": ("A_log", "A_b_log", "A_s_log"),
    "ssm.D": ("D", "D_b", "D_s"),
    "ssm.x_proj": ("x_proj.weight", "x_proj_b.weight", "x_proj_s.weight"),
    "ssm.dt_proj": ("dt_proj.weight", "dt_proj_b.weight", "dt_proj_s.weight"),
    "ssm.dt_bias": ("dt_proj.bias", "dt_proj_b.bias", "dt_proj_s.bias"),
    "conv.weight": ("conv1d.weight", "conv1d_b.weight", "conv1d_s.weight"),
    "conv.bias": ("conv1d.bias", "conv1d_b.bias", "conv1d_s.bias"),
}
_OFFICIAL = re.compile(
    r"(^|\.)(layers\.\d+\.|norm_f\.|cls_token_(head|tail)$|(A_[bs]_log|D_[bs]|A_log|D)$"
    r"|(x_proj|dt_proj|conv1d)(_[bs])?\.(weight|bias)$)"
)
_OURS = re.compile(r"(^|\.)ssm\.")
_ROPE_TABLE = re.compile(r"(^|\.)rope\.freqs_(cos|sin)$")


def slots(module: nn.Module) -> list[Slot]:
    """Every authors' tensor that ``module`` holds, in the order of our state dict."""
    state = module.state_dict()
    whole = any(name.startswith("blocks.") for name in state)  # a block alone has a norm that keeps its name
    return [slot for name, value in state.items() for slot in _slots_of(name, tuple(value.shape), whole)]


def _slots_of(name: str, shape: tuple[int, ...], whole: bool) -> list[Slot]:
    official = re.sub(r"^norm\.", "norm_f.", re.sub(r"^blocks\.", "layers.", name)) if whole else name
    for ours, officials in _STACKED.items():
        if name == ours or name.endswith(f"mixer.{ours}"):
            prefix = official[: -len(ours)]
            inner = (shape[1], 1, shape[2]) if ours == "conv.weight" else shape[1:]
            return [Slot(prefix + officials[k], name, inner, 0, k) for k in range(shape[0])]
    if name.endswith("cls_token") and shape[1] == 2:
        inner = (1, 1, shape[2])
        return [Slot(f"{name}_{end}", name, inner, 1, k) for k, end in enumerate(("head", "tail"))]
    return [Slot(official, name, shape)]


def is_official(names: Iterable[str]) -> bool:
    """Whether some of these names are the authors' and cannot be ours."""
    return any(_OFFICIAL.search(name) and not _OURS.search(name) for name in names)


def holds_vim(names: Iterable[str]) -> bool:
    """Whether a state dict with these names, the authors' or ours, is a Vim's."""
    names = list(names)
    other = any(  # LocalVim, PlainMamba, VideoMamba for clips
        re.search(r"\.mixer\.((attn|merge)\.|moves$)|^temporal_pos_embed", name) for name in names
    )
    return not other and any(re.match(r"(layers|blocks)\.\d+\.mixer\.", name) for name in names)


def without_tables(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drops rotary tables, which the authors store and we compute."""
    return {name: value for name, value in state.items() if not _ROPE_TABLE.search(name)}


VIM = Dialect((BiMamba,), slots, is_official, without_tables)


def checkpoint_filter_fn(
    state_dict: Mapping[str, Any],
    model: Any,
    official_pos_embed: bool = False,
    pos_embed_grid: tuple[int, int] | None = None,
) -> dict[str, Tensor]:
    """A checkpoint of ours or the authors', under our names and for the model's grid.

    Args:
        state_dict: Tensors by name, in a wrapper such as ``{"model": ...}`` or not.
        model: The model they are for; checkpoints that fit it already are returned unchanged. Without
            ``distill_head`` it needs none of a distilled checkpoint's.
        official_pos_embed: Resize position embeddings as the authors' fine-tuning does, see
            `resize_pos_embed`.
        pos_embed_grid: Rows and columns of patches that position embeddings were learned on; by default what the
            checkpoint says.

    Raises:
        ValueError: a tensor of the authors' is missing one of its directions, or the grid that position
            embeddings were learned on cannot be inferred.
    """
    state_dict, dialect = bare(state_dict), model.dialect
    state = dialect.to_native(state_dict, model) if dialect.is_official(state_dict) else dict(state_dict)
    if getattr(model, "distill_head", None) is None:
        state = {name: value for name, value in state.items() if not name.startswith("distill_head.")}
    pos_embed = state.get("pos_embed")
    if pos_embed is not None and model.pos_embed is not None:
        state["pos_embed"] = fitted_pos_embed(
            state_dict, pos_embed, model, pos_embed_grid, official_pos_embed
        )
    return state
