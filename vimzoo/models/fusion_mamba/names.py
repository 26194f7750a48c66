"""Maps the parameter names of both FusionMambas' authors to ours."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from ..weights.dialect import SS2D_CORE, Dialect, Slot
from .multimodal import MultimodalFusionMamba
from .spectral import SpectralFusionMamba

__all__ = ["FUSION_MAMBA", "detected"]

_Rules = tuple[tuple[str, str], ...]
_STAGE = r"^{}\.([0-3])\."
_SPECTRAL: _Rules = (
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
_MULTIMODAL: _Rules = (
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


def _spectral_slots(module: nn.Module) -> list[Slot]:
    found = []
    for name, value in module.state_dict().items():
        shape = tuple(value.shape)
        stacked = next((part for part in _STACKED if name.endswith(f".{part}")), None)
        if stacked is None:
            found.append(Slot(_renamed(name, _SPECTRAL), name, shape))
            continue
        theirs, first = _STACKED[stacked]
        prefix = _renamed(name.removesuffix(stacked), _SPECTRAL)
        inner = (shape[1], 1, shape[2]) if stacked.endswith("conv.weight") else shape[1:]
        for k in range(shape[0]):
            official = prefix + theirs.format(_DIRECTIONS[first + k])
            found.append(Slot(official, name, inner, 0, k))
    return found


def _multimodal_slots(module: nn.Module) -> list[Slot]:
    found = []
    for name, value in module.state_dict().items():
        stored = tuple(value.shape)
        shape = stored
        moved = re.sub(r"^stages\.(\d+)\.downsample", lambda m: f"stages.{int(m[1]) - 1}.downsample", name)
        official = _renamed(moved, _MULTIMODAL)
        if core := re.search(r"\.ssm\.(\w+)$", official):
            official = f"{official[: core.start()]}.{SS2D_CORE[core[1]]}"
            if core[1] in ("A_log", "D"):
                shape = (stored[0] * stored[1], *stored[2:])
        found.append(Slot(official, name, shape, stored=stored))
    return found


def _slots(module: nn.Module) -> list[Slot]:
    """Every authors' tensor that a network holds."""
    return _spectral_slots(module) if isinstance(module, SpectralFusionMamba) else _multimodal_slots(module)


def _is_official(names: Iterable[str]) -> bool:
    return any(name.startswith(("stage0.", "raise_ms_dim.", "layers.", "layers_up.")) for name in names)


FUSION_MAMBA = Dialect((MultimodalFusionMamba, SpectralFusionMamba), _slots, _is_official, dict)
MultimodalFusionMamba.dialect = SpectralFusionMamba.dialect = FUSION_MAMBA


def detected(state: Mapping[str, Tensor]) -> type[nn.Module] | None:
    """The network that a state dict is from, with the authors' names or ours; None if it is neither."""
    if {"raise_ms_dim.0.weight", "band_gate.raise_dim.weight"} & state.keys():
        return SpectralFusionMamba
    if {"Cross_block.0.ln_1.weight", "joins.0.norm.weight"} & state.keys():
        return MultimodalFusionMamba
    return None
