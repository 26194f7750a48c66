"""Maps the MobileMamba authors' parameter names to ours, before and after batch norms are folded into their layers."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from vimzoo.layers.mobile import MobileBlock
from vimzoo.layers.wavelet import WaveletMixer, WaveletSS2D

from ..weights.dialect import SS2D_CORE, Dialect, Slot

_OFFICIAL = re.compile(r"(^|\.)(m|global_atten|wavelet_convs|dwconv\dx\d)\.|^blocks\d\.|^patch_embed\.\d")
_OURS = re.compile(r"(^|\.)(stages|ssm|convs)\.")
_FILTERS = re.compile(r"(^|\.)i?wt_filter$")
_DOWNSAMPLE = {
    "dw0": "0.0", "mlp0": "0.1", "conv1": "1.conv1", "conv2": "1.conv2", "se": "1.se", "conv3": "1.conv3",
    "dw1": "2.0", "mlp1": "2.1",
}  # fmt: skip
_RULES = (
    (r"^patch_embed\.convs\.", "patch_embed."),
    (r"(^|\.)global_op\.scan\.conv\.", r"\1global_op.global_atten.conv2d."),
    (r"(^|\.)global_op\.scan\.", r"\1global_op.global_atten."),
    (r"(^|\.)global_op\.conv\.", r"\1global_op.wavelet_convs.0."),
    (r"(^|\.)global_op\.base_scale$", r"\1global_op.base_scale.weight"),
    (r"(^|\.)global_op\.wavelet_scale$", r"\1global_op.wavelet_scale.0.weight"),
    (r"(^|\.)local_op\.conv\.block\.conv\.", r"\1local_op.dwconv3x3."),
    (r"(^|\.)local_op\.conv\.block\.bn\.", r"\1local_op.bn1."),
    (r"(^|\.)local_op\.conv\.block\.", r"\1local_op.0."),
    (r"(^|\.)local_op\.scale\.scale\.", r"\1local_op.dwconv1x1."),
    (r"(^|\.)local_op\.scale\.norm\.bn\.", r"\1local_op.bn2."),
    (r"(^|\.)local_op\.scale\.", r"\1local_op.2."),
    (r"(^|\.)mixer\.", r"\1mixer.m.attn."),
    (r"(^|\.attn\.)proj\.", r"\1proj.1."),
    (r"(^|\.)dw([01])\.", r"\1dw\2.m."),
    (r"(^|\.)mlp([01])\.fc([12])\.", r"\1ffn\2.m.pw\3."),
    (r"\.block\.", "."),
    (r"\.(conv|linear)\.weight$", ".c.weight"),
    (r"\.norm\.bn\.", ".bn."),
)
"""(pattern, replacement) within a stage, applied one after the other."""


def slots(module: nn.Module) -> list[Slot]:
    """Every authors' tensor that a model, block or mixer holds, in the order of our state dict."""
    state = module.state_dict()
    return [_slot(name, tuple(value.shape), state) for name, value in state.items()]


def _slot(name: str, stored: tuple[int, ...], state: Mapping[str, Tensor]) -> Slot:
    if core := re.search(r"(^|\.)ssm\.(\w+)$", name):
        official = _official(name[: core.start(2) - len("ssm.")], state) + SS2D_CORE[core[2]]
        flat = (stored[0] * stored[1], *stored[2:])
        return Slot(official, name, flat if core[2] in ("A_log", "D") else stored, stored=stored)
    # a linear layer of the map is a convolution of one pixel in theirs
    is_conv = len(stored) == 2 and not name.startswith("head.")
    return Slot(_official(name, state), name, (*stored, 1, 1) if is_conv else stored, stored=stored)


def _official(name: str, state: Mapping[str, Tensor]) -> str:
    if match := re.match(r"head\.(norm|fc)(_dist)?\.(.+)", name):
        head, folded = f"head{match[2] or ''}", f"head.norm{match[2] or ''}.bn.weight" not in state
        return f"{head}.{match[3]}" if match[1] == "norm" or folded else f"{head}.l.{match[3]}"
    if match := re.match(r"stages\.(\d+)\.downsample\.(\w+)\.(.+)", name):
        rest = re.sub(r"^fc([12])\.", r"pw\1.", match[3])
        inner = "m." if re.match(r"dw|mlp", match[2]) else ""
        rest = rest if inner else match[3]
        name = f"blocks{int(match[1]) + 1}.{_DOWNSAMPLE[match[2]]}.{inner}{rest}"
    elif match := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.(.+)", name):
        stage = int(match[1])
        name = f"blocks{stage + 1}.{int(match[2]) + (3 if stage > 0 else 0)}.{match[3]}"
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name


def is_official(names: Iterable[str]) -> bool:
    """Whether some of these names are the authors' and cannot be ours."""
    return any(_OFFICIAL.search(name) and not _OURS.search(name) for name in names)


def holds_mobile_mamba(names: Iterable[str]) -> bool:
    """Whether a state dict with these names, the authors' or ours, is a MobileMamba's."""
    return any(re.search(r"(^|\.)global_op\.(wavelet_scale|wt_filter)", name) for name in names)


def haar_filters(dim: int) -> Tensor:
    """The filters that the authors store for ``dim`` channels, ``(4 dim, 1, 2, 2)``."""
    half = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 2
    return half.reshape(4, 1, 2, 2).repeat(dim, 1, 1, 1)


def spell(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An authors' state dict without the filters of the wavelet transform, which are Haar's.

    Raises:
        ValueError: they are others.
    """
    for name, value in state.items():
        if _FILTERS.search(name) and not _is_haar(value):
            raise ValueError(f"{name}: expected the filters of the Haar transform, (4 C, 1, 2, 2), +-0.5")
    return {name: value for name, value in state.items() if not _FILTERS.search(name)}


def _is_haar(value: Tensor) -> bool:
    if value.dim() != 4 or value.shape[0] % 4 or value.shape[1:] != (1, 2, 2):
        return False
    return torch.allclose(value.detach().float().cpu(), haar_filters(len(value) // 4), rtol=0, atol=1e-3)


def filters(module: nn.Module) -> dict[str, Tensor]:
    """The filters of the wavelet transform under the authors' names, for all parts of a module."""
    found: dict[str, Tensor] = {}
    for name, part in module.named_modules():
        if isinstance(part, WaveletSS2D):
            prefix = _official(f"{name}.", {}) if name else ""
            haar = haar_filters(part.base_scale.numel())
            found |= {f"{prefix}{kind}": haar for kind in ("wt_filter", "iwt_filter")}
    return found


MOBILE_MAMBA = Dialect((MobileBlock, WaveletMixer, WaveletSS2D), slots, is_official, spell, constants=filters)
