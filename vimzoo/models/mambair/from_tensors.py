"""Reads off a file's tensors which network of MambaIR's it holds, and with which arguments it was built."""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vimzoo.layers.mambair import cab_form

from ..routes import check_routing
from ..weights.contents import Tensors
from ..weights.grids import recorded_or_square
from .model import MambaIR
from .names import as_official
from .unet import LEVELS, MambaIRUNet
from .v2 import MambaIRv2

# By the authors' names and by ours
_UNET = re.compile(r"encoder_level1\.0\.(self_attention\.A_logs|ss2d\.ssm\.A_log)$")
_VERSION_2 = re.compile(r".*\.assm\.|groups\.\d+\.blocks\.\d+\.scan\.")
_VERSION_1 = re.compile(r".*residual_group\.blocks\.\d+\.self_attention\.|groups\.\d+\.blocks\.\d+\.ss2d\.")


def detect(state: Mapping[str, Tensor]) -> type[nn.Module] | None:
    """The class of network with these tensors, under the authors' names or ours; None if it is not of this family."""
    for pattern, kind in ((_UNET, MambaIRUNet), (_VERSION_2, MambaIRv2), (_VERSION_1, MambaIR)):
        if any(pattern.match(name) for name in state):
            return kind
    return None


def infer(kind: type[nn.Module], tensors: Tensors, given: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's arguments of the network with these tensors.

    Args:
        kind: What `detect` returns.
        tensors: Under the authors' names or ours.
        given: Settings that cannot be inferred: ``img_range``, ``routing`` (by default as recorded in the file),
            ``pos_embed_size``; those that the class does not have are ignored.

    Raises:
        KeyError: a tensor that determines an argument is missing.
        ValueError: no arguments give tensors of these shapes.
    """
    state = as_official(tensors)
    read = {MambaIR: _v1, MambaIRv2: _v2, MambaIRUNet: _unet}[kind]  # type: ignore[index]
    options = read(_Shapes(state))
    if kind is not MambaIRUNet and "img_range" in given:
        options["img_range"] = given["img_range"]
    if kind is MambaIRv2 and (routing := given.get("routing") or tensors.routing):
        options["routing"] = check_routing(routing)
    if "absolute_pos_embed" in state:
        rows = state["absolute_pos_embed"].shape[1]
        options["pos_embed_size"] = recorded_or_square(tensors, rows, given.get("pos_embed_size"))
    return options


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
        """Number of different indices after a prefix."""
        found = (re.match(re.escape(prefix) + r"(\d+)\.", name) for name in self.state)
        return len({match[1] for match in found if match})


def _ratio(*pairs: tuple[int, int]) -> float:
    """The shortest decimal ``ratio`` with ``int(ratio * dim) == hidden`` for all pairs ``(hidden, dim)``.

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
    """Arguments that both versions of MambaIR share."""
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
