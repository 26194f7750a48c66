"""Restoration models from files alone: the network is read off the tensors' names and shapes."""

import math
import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vimzoo.layers.mambair import cab_form

from ..restoration_base import RestorationModel
from ..weights.contents import Tensors, shared_prefixes
from ..weights.grids import recorded_or_square
from ..weights.loading import CheckpointError
from ..weights.reader import read_tensors
from .model import MambaIR
from .names import as_official
from .unet import LEVELS, MambaIRUNet
from .v2 import MambaIRv2

__all__ = ["load_restoration", "restoration_options"]

_OTHERS = (
    (r"overlap_attn\.", "HAT"),
    (r"(^|\.)(attn_atd|td_mod)|\.win_mhsa\..*atd", "ATD"),
    (r"residual_group\.blocks\.\d+\.attn\.qkv\.", "SwinIR"),
    (r"(en|de)coder_level\d\.\d+\.attn\.temperature$", "Restormer"),
    (r"^middle_blks\.", "NAFNet"),
    (r"rdb\d\.conv\d\.|RDB\d\.", "ESRGAN (RRDBNet)"),
    (r"^layers\.\d+\.mixer\.|^blocks\.\d+\.mixer\.", "Vim, a classifier"),
    (r"(^|\.)blocks\.\d+\.(op|ss2d)\.|^classifier\.", "VMamba, a classifier"),
    (r"^layers_up\.", "VM-UNet, a segmentation network"),
    (r"^blocks\.\d+\.attn\.qkv\.", "a vision transformer"),
    (r"^(head|fc|classifier)\.weight$", "a classifier"),
    (r"^body\.\d+\.(body\.\d+|conv\d)\.weight$", "EDSR or a like convolutional network"),
)


def load_restoration(
    path: str | os.PathLike[str],
    *,
    use_ema: bool | None = None,
    prefix: str = "",
    routing: str = "gumbel",
    img_range: float = 1.0,
    pos_embed_size: tuple[int, int] | None = None,
    device: torch.device | str | None = None,
) -> RestorationModel:
    """A MambaIR, MambaIRv2 or MambaIR U-Net from its file, whatever its size, task and generation.

        model = vimzoo.load_restoration("mambairv2_lightSR_x2.pth")
        restored = model(image)  # (B, 3, H, W) in 0..1 -> (B, 3, 2H, 2W)

    Args:
        path: The authors' file (``{"params": ...}``, ``{"params_ema": ...}``), or one of our own, also safetensors.
        use_ema: Take the moving average of the weights where a file holds both; None: see `read_checkpoint`.
        prefix: Take only the tensors whose names begin with this; one that all names share needs no argument.
        routing: MambaIRv2's ``"gumbel"`` or ``"argmax"``.
        img_range: Not in the tensors; 1 in every published model.
        pos_embed_size: Rows and columns of MambaIRv2's position embedding, which no published model has. By default
            what the file says, else a square, with a warning.
        device: Where to.

    Returns:
        The model in evaluation mode, with ``scale`` and ``in_chans``.

    Raises:
        CheckpointError: the file cannot be read, or is none of these models'; the message says what it looks like.
    """
    source = os.fspath(path)
    tensors = read_tensors(path, use_ema=use_ema).under(prefix)
    kind, options = restoration_options(tensors, source, pos_embed_size)
    if kind is not MambaIRUNet:
        options["img_range"] = img_range
    if kind is MambaIRv2:
        options["routing"] = routing
    model = kind(**options)
    if options.get("pos_embed_size") is None:
        model.load_pretrained(source, prefix, use_ema=use_ema)
    else:
        grid = {"pos_embed_grid": options["pos_embed_size"]}
        model.load_pretrained(source, prefix, use_ema=use_ema, **grid)
    return model.to(device).eval()


def _unwrapped(tensors: Tensors, source: str) -> Tensors:
    """The tensors without a prefix that all share, if a network of ours is under it."""
    for shared in shared_prefixes(tensors):
        if _is_ours(tensors.under(shared)):
            return tensors.under(shared)
    heads = (name[: match.end()] for name in tensors for match in re.finditer(r"\.", name))
    part = next((head for head in dict.fromkeys(heads) if _is_ours(tensors.under(head))), None)
    if part is not None:
        raise CheckpointError(
            f"{source}: a network of ours is in the file under names that begin with {part!r}; pass prefix={part!r} to"
            " vimzoo.load_restoration to load it"
        )
    return tensors


def _is_ours(tensors: Mapping[str, Tensor]) -> bool:
    if not any(name.startswith(("conv_first.", "patch_embed.")) for name in tensors):
        return False
    try:
        _kind(_official(tensors), "")
    except CheckpointError:
        return False
    return True


def _official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    try:
        return as_official(tensors)
    except (KeyError, IndexError):
        return dict(tensors)


def restoration_options(
    tensors: Mapping[str, Tensor],
    source: str = "the state dict",
    pos_embed_size: tuple[int, int] | None = None,
) -> tuple[type[RestorationModel], dict[str, Any]]:
    """The class of network that has these tensors, under our names or the authors', and its arguments.

    A prefix that all names share is overlooked.

    Raises:
        CheckpointError: it is none of ours, or lacks a tensor that says how it is built.
    """
    tensors = _unwrapped(Tensors(tensors), source)
    state = _official(tensors)
    kind, read = _kind(state, source)
    try:
        options = read(_Shapes(state))
        if "absolute_pos_embed" in state:
            rows = state["absolute_pos_embed"].shape[1]
            options["pos_embed_size"] = recorded_or_square(tensors, rows, pos_embed_size)
        return kind, options
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{source}: looks like {kind.__name__}, but how it is built cannot be told: {error}"
        ) from error


def _kind(state: Mapping[str, Tensor], source: str) -> tuple[type[RestorationModel], Any]:
    if "encoder_level1.0.self_attention.A_logs" in state:
        return MambaIRUNet, _unet
    if any(".assm." in name for name in state):
        return MambaIRv2, _v2
    if any(re.search(r"residual_group\.blocks\.\d+\.self_attention\.", name) for name in state):
        return MambaIR, _v1
    looks = [what for pattern, what in _OTHERS if any(re.search(pattern, name) for name in state)]
    if not looks:
        names = ", ".join(list(state)[:3])
        raise CheckpointError(
            f"{source}: not a restoration model of ours; its {len(state)} tensors begin with {names}"
        )
    raise CheckpointError(f"{source}: not a restoration model of ours; it looks like {looks[0]}")


class _Shapes:
    """Shapes by the authors' names."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state

    def __contains__(self, name: str) -> bool:
        return name in self.state

    def __getitem__(self, name: str) -> tuple[int, ...]:
        if name not in self.state:
            raise KeyError(f"{name} is missing")
        return tuple(self.state[name].shape)

    def count(self, prefix: str) -> int:
        """How many numbers follow a prefix."""
        found = (re.match(re.escape(prefix) + r"(\d+)\.", name) for name in self.state)
        return len({match[1] for match in found if match})


def _ratio(*pairs: tuple[int, int]) -> float:
    """The shortest decimal number that makes ``hidden`` of ``dim``, for all pairs, when products are cut to integers.

    Raises:
        ValueError: there is none.
    """
    low = max(hidden / dim for hidden, dim in pairs)
    high = min((hidden + 1) / dim for hidden, dim in pairs)
    for ratio in (*(round((low + high) / 2, digits) for digits in range(1, 6)), low, (low + high) / 2):
        if all(int(ratio * dim) == hidden for hidden, dim in pairs):
            return ratio
    raise ValueError(f"no ratio of widths makes (inner, outer) of {pairs}")


def _frame(shapes: _Shapes, blocks: str) -> dict[str, Any]:
    """What both versions of MambaIR have around their blocks."""
    dim, chans = shapes["conv_first.weight"][:2]
    groups = shapes.count("layers.")
    scale, upsampler = _upsampling(shapes, chans)
    return dict(
        in_chans=chans,
        embed_dim=dim,
        depths=[shapes.count(f"layers.{g}.residual_group.{blocks}.") for g in range(groups)],
        scale=scale,
        upsampler=upsampler,
        resi_connection="3conv" if "conv_after_body.0.weight" in shapes else "1conv",
        stem_norm="patch_embed.norm.weight" in shapes,
    )


def _upsampling(shapes: _Shapes, chans: int) -> tuple[int, str]:
    if "conv_up1.weight" in shapes:
        return 4, "nearest+conv"
    if "conv_before_upsample.0.weight" in shapes:
        width = shapes["conv_before_upsample.0.weight"][0]
        thrice = "upsample.0.weight" in shapes and shapes["upsample.0.weight"][0] == 9 * width
        return 3 if thrice else 2 ** shapes.count("upsample."), "pixelshuffle"
    if "upsample.0.weight" in shapes:
        return math.isqrt(shapes["upsample.0.weight"][0] // chans), "pixelshuffledirect"
    return 1, ""


def _v1(shapes: _Shapes) -> dict[str, Any]:
    options = _frame(shapes, "blocks")
    dim = options["embed_dim"]
    block = "layers.0.residual_group.blocks.0"
    first = shapes[f"{block}.conv_blk.cab.0.weight"]
    form = cab_form(first, dim)
    if form is None:
        raise ValueError(f"{block}.conv_blk.cab.0.weight has shape {first}, which no form of the block has")
    options.update(
        d_state=shapes[f"{block}.self_attention.A_logs"][1],
        ratio=_ratio((shapes[f"{block}.self_attention.out_norm.weight"][0], dim)),
        cab=form,
    )
    return options


def _v2(shapes: _Shapes) -> dict[str, Any]:
    options = _frame(shapes, "layers")
    layer = "layers.0.residual_group.layers.0"
    table = "residual_group.layers.0.win_mhsa.relative_position_bias_table"
    gated = f"{layer}.convffn1.sg.norm.weight" in shapes
    conv = f"{layer}.convffn1.{'sg.conv' if gated else 'dwconv.depthwise_conv.0'}.weight"
    options.update(
        num_heads=[shapes[f"layers.{g}.{table}"][1] for g in range(len(options["depths"]))],
        window=(math.isqrt(shapes[f"layers.0.{table}"][0]) + 1) // 2,
        d_state=shapes[f"{layer}.assm.selectiveScan.A_logs"][1],
        ratio=_ratio((shapes[f"{layer}.convffn1.fc1.weight"][0], options["embed_dim"])),
        num_tokens=shapes[f"{layer}.assm.embeddingB.weight"][0],
        rank=shapes[f"{layer}.embeddingA.weight"][0],
        kernel=shapes[conv][-1],
        gated=gated,
        qkv_bias=f"{layer}.wqkv.bias" in shapes,
    )
    return options


def _widths(shapes: _Shapes, block: str) -> tuple[int, int]:
    """The inner and the outer width of a block."""
    return shapes[f"{block}.self_attention.out_norm.weight"][0], shapes[f"{block}.skip_scale"][0]


def _unet(shapes: _Shapes) -> dict[str, Any]:
    dim, chans = shapes["patch_embed.proj.weight"][:2]
    counts = [shapes.count(f"{name}.") for name in LEVELS]
    return dict(
        in_chans=chans,
        out_chans=shapes["output.weight"][0],
        embed_dim=dim,
        depths=counts[:4],
        refinement_depth=counts[-1],
        ratio=_ratio(*(_widths(shapes, f"{name}.0") for name in LEVELS)),
        d_state=[shapes[f"{name}.0.self_attention.A_logs"][1] for name in LEVELS],
        bias="output.bias" in shapes,
    )
