"""The constructors of both FusionMambas' authors, returning our modules.

``U2Net`` is that of PSRben/FusionMamba (model/u2net.py), which sharpens an image of many bands; ``VSSM_Fusion`` that of
millieXie/FusionMamba (models/vmamba_Fusion_efficross.py), which joins two pictures of one scene. ``load_state_dict``
takes the authors' keys. `official_state_dict` and `official_gradients` write state and gradients back under their
names.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from torch import nn

from vimzoo.models.fusion_mamba import MultimodalFusionMamba, SpectralFusionMamba
from vimzoo.models.weights.dialect import SS2D_CORE, Dialect, Slot

from .official import Named, accept_official_names, official_gradients, official_state_dict

__all__ = ["U2Net", "VSSM_Fusion", "official_gradients", "official_state_dict"]

_Rules = tuple[tuple[str, str], ...]
_STAGE = r"^{}\.([0-3])\."
_U2NET: _Rules = (
    (r"^enlarge\.", "upsample.upsamle.0."),
    (r"^pan_stem\.", "raise_pan_dim.0."),
    (r"^band_stem\.", "raise_ms_dim.0."),
    (r"^head\.", "to_hrms."),
    (r"^band_gate\.raise_dim\.", "spe_attn.block.0."),
    (r"^band_gate\.norm\.", "spe_attn.block.1."),
    (r"^band_gate\.mixer\.", "spe_attn.block.2."),
    (r"^band_gate\.lower_dim\.", "spe_attn.block.3."),
    (r"^blocks\.4\.", "stage4."),
    (_STAGE.format("blocks"), r"stage\1.fm."),
    (r"^steps\.([01])\.proj\.", r"stage\1.sample.down.0."),
    (r"^steps\.([23])\.proj\.", r"stage\1.sample.up.0."),
    (r"^steps\.([23])\.smooth\.", r"stage\1.sample.conv."),
    (r"\.pan\.", ".spa_mamba_layers.0."),
    (r"\.bands\.", ".spe_mamba_layers.0."),
    (r"\.pan_guided\.norm\.", ".spa_cross_mamba.norm0."),
    (r"\.bands_guided\.norm\.", ".spe_cross_mamba.norm0."),
    (r"_guided\.guide_norm\.", "_guided.norm1."),
    (r"\.pan_guided\.", ".spa_cross_mamba."),
    (r"\.bands_guided\.", ".spe_cross_mamba."),
    (r"\.mixer\.", ".block."),
    (r"\.guide_proj\.", ".in_proj_b."),
    (r"^(stage\d(?:\.fm)?)\.proj\.", r"\1.out_proj."),
)
"""Our names of all that is not stacked -> theirs, applied one after the other."""
_DIRECTIONS = ("", "_b", "_c", "_d")
_STACKED = {
    "ssm.A_log": ("A{}_log", 0),
    "ssm.D": ("D{}", 0),
    "ssm.x_proj": ("x_proj{}.weight", 0),
    "ssm.dt_proj": ("dt_proj{}.weight", 0),
    "ssm.dt_bias": ("dt_proj{}.bias", 0),
    "row_conv.weight": ("conv1d{}.weight", 0),
    "row_conv.bias": ("conv1d{}.bias", 0),
    "column_conv.weight": ("conv1d{}.weight", 2),
    "column_conv.bias": ("conv1d{}.bias", 2),
}
"""Our stacked tensors of a mixer -> their name, and the direction of the first slice."""
_VSSM: _Rules = (
    (r"^stems\.0\.", "patch_embed1."),
    (r"^stems\.1\.", "patch_embed2."),
    (r"^(patch_embed[12])\.conv1\.", r"\1.proj."),
    (r"^(patch_embed[12])\.norm1\.", r"\1.norm."),
    (r"^up_stages\.(\d+)\.expand\.proj\.", r"layers_up.\1.upsample.expand."),
    (r"^up_stages\.(\d+)\.expand\.norm\.", r"layers_up.\1.upsample.norm."),
    (r"^up_stages\.", "layers_up."),
    (r"^stages\.", "layers."),
    (r"\.downsample\.proj\.", ".downsample.reduction."),
    (r"^final\.proj\.", "final_up.expand."),
    (r"^final\.norm\.", "final_up.norm."),
    (r"^head\.", "final_conv."),
    (r"^joins\.", "Cross_block."),
    (r"\.norm1\.", ".norm."),
    (r"(Cross_block\.\d+)\.norm\.", r"\1.ln_1."),
    (r"(Cross_block\.\d+)\.norm2\.", r"\1.ln_2."),
    (r"\.texture\.", ".Cross_layer.texture_enhance1."),
    (r"\.texture2\.", ".Cross_layer.texture_enhance2."),
    (r"\.unused\.", ".Cross_layer.Diff_enhance.lastconv."),
    (r"(Cross_block\.\d+)\.eca\.", r"\1.self_attention_cross_spatial."),
    (r"\.eca\.", ".self_attention_cross_channel."),
    (r"(Cross_block\.\d+)\.ss2d\.in_proj\.", r"\1.ss2d.in_proj1."),
    (r"(Cross_block\.\d+)\.ss2d\.", r"\1.self_attention_cross."),
    (r"\.ss2d\.", ".op."),
    (r"(\.op|\.self_attention_cross)\.conv\.", r"\1.conv2d."),
    (r"\.describe\.", ".conv_branch."),
    (r"\.channel_gate\.norm\.", ".se.norm."),
    (r"\.channel_gate\.reduce\.", ".se.global_reduce."),
    (r"\.channel_gate\.select\.", ".se.channel_select."),
    (r"\.weight_mask$", ".base_mask"),
    (r"\.centre_mask$", ".learnable_mask"),
    (r"\.theta$", ".learnable_theta"),
)


def _renamed(name: str, rules: _Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _u2net_slots(module: nn.Module) -> list[Slot]:
    found = []
    for name, value in module.state_dict().items():
        shape = tuple(value.shape)
        stacked = next((part for part in _STACKED if name.endswith(f".{part}")), None)
        if stacked is None:
            found.append(Slot(_renamed(name, _U2NET), name, shape))
            continue
        theirs, first = _STACKED[stacked]
        prefix = _renamed(name.removesuffix(stacked), _U2NET)
        inner = (shape[1], 1, shape[2]) if stacked.endswith("conv.weight") else shape[1:]
        for k in range(shape[0]):
            official = prefix + theirs.format(_DIRECTIONS[first + k])
            found.append(Slot(official, name, inner, 0, k))
    return found


def _vssm_slots(module: nn.Module) -> list[Slot]:
    found = []
    for name, value in module.state_dict().items():
        stored = tuple(value.shape)
        shape = stored
        moved = re.sub(r"^stages\.(\d+)\.downsample", lambda m: f"stages.{int(m[1]) - 1}.downsample", name)
        official = _renamed(moved, _VSSM)
        if core := re.search(r"\.ssm\.(\w+)$", official):
            official = f"{official[: core.start()]}.{SS2D_CORE[core[1]]}"
            if core[1] in ("A_log", "D"):
                shape = (stored[0] * stored[1], *stored[2:])
        found.append(Slot(official, name, shape, stored=stored))
    return found


def _any_begins(*prefixes: str) -> Callable[[Iterable[str]], bool]:
    return lambda names: any(name.startswith(prefixes) for name in names)


class U2Net(Named, SpectralFusionMamba):
    """The spectral FusionMamba.

    It is called with the coarse image ``(B, ms_dim, H / scale, W / scale)`` and the fine one ``(B, pan_dim, H, W)``,
    and gives ``(B, ms_dim, H, W)``.

    Args:
        dim, pan_dim, ms_dim, scale: As `SpectralFusionMamba` takes them.
        H, W: Without effect: theirs is made for one size, ours takes any in multiples of 4.

    Raises:
        ValueError: a size is not positive.
    """

    dialect = Dialect((SpectralFusionMamba,), _u2net_slots, _any_begins("stage0.", "raise_ms_dim."), dict)

    def __init__(
        self, dim: int = 32, pan_dim: int = 1, ms_dim: int = 8, H: int = 64, W: int = 64, scale: int = 4
    ) -> None:
        super().__init__(dim, pan_dim, ms_dim, scale)
        accept_official_names(self)


class VSSM_Fusion(Named, MultimodalFusionMamba):
    """The multimodal FusionMamba, two pictures ``(B, 1, H, W)`` -> ``(B, 1, H, W)``.

    Args:
        depths, depths_decoder, dims: As `MultimodalFusionMamba` takes them.
        dims_decoder: Must be ``dims`` reversed.
        in_channel: Without effect in theirs, whose pictures have one channel; must be 1.

    Raises:
        ValueError: a number is not positive, the two sides differ, or ``in_channel`` is not 1.
    """

    dialect = Dialect((MultimodalFusionMamba,), _vssm_slots, _any_begins("layers.", "layers_up."), dict)

    def __init__(
        self,
        depths: Sequence[int] = (2, 2, 9, 2),
        depths_decoder: Sequence[int] = (2, 9, 2, 2),
        dims: Sequence[int] = (96, 192, 384, 768),
        dims_decoder: Sequence[int] = (768, 384, 192, 96),
        in_channel: int = 1,
    ) -> None:
        if list(dims_decoder) != list(dims)[::-1]:
            raise ValueError(f"dims_decoder={list(dims_decoder)}: expected {list(dims)[::-1]}, as dims say")
        if in_channel != 1:
            raise ValueError(f"in_channel={in_channel}: expected 1, as the authors' network has")
        super().__init__(depths, depths_decoder, dims)
        accept_official_names(self)
