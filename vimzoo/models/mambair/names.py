"""Maps the MambaIR authors' parameter names to ours, for all three networks and single blocks."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from vimzoo.layers.attentive import AttentiveLayer, AttentiveScan
from vimzoo.layers.mambair import CAB, ChannelAttention, RestorationBlock

from ..weights.contents import bare
from ..weights.dialect import SS2D_CORE, Dialect, Slot
from ..weights.grids import fitted_pos_embed

INDEX_BUFFER = "relative_position_index_SA"  # depends on the window size alone; the authors store it
# (pattern, replacement) from our names to the authors', in order; (^|\.) so that blocks alone match too
_COMMON = (
    (r"^conv_body\.", "conv_after_body."),
    (r"^stem_norm\.", "patch_embed.norm."),
    (r"^pos_embed$", "absolute_pos_embed"),
    (r"^head\.conv_in\.", "conv_before_upsample.0."),
    (r"^head\.conv_out\.", "conv_last."),
    (r"^head\.(conv_)", r"\1"),
    (r"^groups\.", "layers."),
    (r"^((?:down|up)\d_\d)\.conv\.", r"\1.body.0."),
    (r"^squeeze\.", "attention.1."),
    (r"^excite\.", "attention.3."),
)
_BLOCK = (
    (r"(^|\.)norm([12])\.", r"\1ln_\2."),
    (r"(^|\.)skip1$", r"\1skip_scale"),
    (r"(^|\.)skip2$", r"\1skip_scale2"),
    (r"(^|\.)ss2d\.conv\.", r"\1ss2d.conv2d."),
    (r"(^|\.)ss2d\.", r"\1self_attention."),
    (r"(^|\.)cab\.", r"\1conv_blk."),
)
_LAYER = (
    (r"(^|\.)qkv\.", r"\1wqkv."),
    (r"(^|\.)attn\.bias_table$", r"\1win_mhsa.relative_position_bias_table"),
    (r"(^|\.)attn\.", r"\1win_mhsa."),
    (r"(^|\.)states$", r"\1embeddingA.weight"),
    (r"(^|\.)scan\.", r"\1assm."),
    (r"(^|\.)ffn([12])\.norm\.", r"\1convffn\2.sg.norm."),
    (r"(^|\.)ffn([12])\.", r"\1convffn\2."),
)
_SCAN = (
    (r"(^|\.)prompts$", r"\1embeddingB.weight"),
    (r"(^|\.)((?:assm\.)?)conv\.(weight|bias)$", r"\1\2CPE.0.\3"),
    (r"(^|\.)((?:assm\.)?)in_proj\.", r"\1\2in_proj.0."),
    (r"(^|\.)ssm\.", r"\1selectiveScan.ssm."),
)
_OFFICIAL = re.compile(
    r"(^|\.)(residual_group|self_attention|conv_blk|win_mhsa|assm|convffn[12]|patch_embed|conv_after_body|cab)\."
    r"|(^|\.)(A_logs|Ds|x_proj_weight|dt_projs_weight|dt_projs_bias)$|(^|\.)attention\.[13]\."
)
_OURS = re.compile(r"(^|\.)(groups|ss2d|ssm|convs|squeeze|excite)(\.|$)")


class _Naming:
    """Translates our names to the authors', some of which depend on the other tensors of the state dict."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = set(names)
        self.last_conv: dict[str, int] = {}
        for name in self.names:
            if match := re.match(r"(|.*\.)convs\.(\d+)\.", name):
                self.last_conv[match[1]] = max(int(match[2]), self.last_conv.get(match[1], 0))
        self.is_block = any(re.search(r"(^|\.)(ss2d|cab)\.", name) for name in self.names)
        self.is_unet = "down1_2.conv.weight" in self.names
        self.is_layer = any(re.search(r"(^|\.)scan\.", name) for name in self.names)

    def official(self, name: str) -> str:
        """The authors' name."""
        if match := re.match(r"(|.*\.)attention\.(squeeze|excite)\.(\w+)$", name):
            place = self.last_conv[match[1]] + 1  # the attention follows the convolutions in their sequence
            step = {"squeeze": 1, "excite": 3}[match[2]]
            name = f"{match[1]}convs.{place}.attention.{step}.{match[3]}"
        elif match := re.match(r"(|.*\.)(ffn[12])\.conv\.(\w+)$", name):
            gated = f"{match[1]}{match[2]}.norm.weight" in self.names
            name = f"{match[1]}{match[2]}.{'sg.conv' if gated else 'dwconv.depthwise_conv.0'}.{match[3]}"
        elif match := re.match(r"head\.ups\.(\d+)\.(\w+)$", name):
            name = f"upsample.{2 * int(match[1])}.{match[2]}"
        if self.is_unet and name.startswith("conv_first."):
            return name.replace("conv_first.", "patch_embed.proj.")
        if match := re.match(r"groups\.(\d+)\.blocks\.(.+)", name):
            name = f"layers.{match[1]}.residual_group.{'layers' if self.is_layer else 'blocks'}.{match[2]}"
        return self._by_rules(name)

    def _by_rules(self, name: str) -> str:
        rules = _BLOCK if self.is_block else _LAYER if self.is_layer else ()
        scan = _SCAN if re.search(r"(^|\.)scan\.", name) or "prompts" in self.names else ()
        for pattern, replacement in (*_COMMON, *scan, *rules):
            name = re.sub(pattern, replacement, name)
        if match := re.search(r"(^|\.)ssm\.(\w+)$", name):
            name = f"{name[: match.start()]}{match[1]}{SS2D_CORE[match[2]]}"
        return re.sub(r"(^|\.)convs\.", r"\1cab.", name)


def _shape(name: str, stored: tuple[int, ...]) -> tuple[int, ...]:
    """The authors have directions and channels in one axis of ``A_logs`` and ``Ds``."""
    return (stored[0] * stored[1], *stored[2:]) if re.search(r"(^|\.)ssm\.(A_log|D)$", name) else stored


def slots_of(state: Mapping[str, Tensor]) -> list[Slot]:
    """Every authors' tensor in a state dict of ours, in its order."""
    naming, found = _Naming(state), []
    for name, value in state.items():
        stored = tuple(value.shape)
        found.append(Slot(naming.official(name), name, _shape(name, stored), stored=stored))
    return found


def is_official(names: Iterable[str]) -> bool:
    """Whether some of these names are the authors' and cannot be ours."""
    names = list(names)
    return any(_OFFICIAL.search(name) for name in names) and not any(_OURS.search(name) for name in names)


def _spell(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name != INDEX_BUFFER}


def _slots(module: nn.Module) -> list[Slot]:
    return slots_of(module.state_dict())


_MODULES = (RestorationBlock, CAB, ChannelAttention, AttentiveLayer, AttentiveScan)
MAMBAIR = Dialect(_MODULES, _slots, is_official, _spell)


def as_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of ours or the authors' under the authors' names."""
    if is_official(state):
        return dict(state)
    return {slot.official: slot.read(state[slot.ours]) for slot in slots_of(state)}


def checkpoint_filter_fn(
    state_dict: Mapping[str, Any], model: Any, pos_embed_grid: tuple[int, int] | None = None
) -> dict[str, Tensor]:
    """A checkpoint of ours or the authors', under our names and for the model's grid.

    Args:
        state_dict: Tensors by name, in a wrapper such as ``{"params": ...}`` or not.
        model: The model they are for; checkpoints that fit it already are returned unchanged.
        pos_embed_grid: Rows and columns that a position embedding was learned on; by default what the checkpoint says.

    Raises:
        ValueError: that grid cannot be determined.
    """
    state_dict = bare(state_dict)
    state = MAMBAIR.to_native(state_dict, model) if is_official(state_dict) else dict(state_dict)
    pos_embed = state.get("pos_embed")
    if pos_embed is not None and getattr(model, "pos_embed", None) is not None:
        state["pos_embed"] = fitted_pos_embed(state_dict, pos_embed, model, pos_embed_grid)
    return state
