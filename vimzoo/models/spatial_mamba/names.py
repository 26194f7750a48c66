"""Maps the Spatial-Mamba authors' parameter names to ours."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from vimzoo.layers import SpatialBlock, SpatialSS2D

from ..map_positions import checkpoint_filter_fn
from ..staged_names import official_name
from ..weights.dialect import SS2D_CORE, Dialect, Slot

__all__ = ["SPATIAL_MAMBA", "checkpoint_filter_fn", "holds_spatial_mamba"]

_KERNELS = ("kernel_3", "kernel_3_1", "kernel_3_2")
"""Their names of the filters of dilation 1, 3 and 5."""
_OFFICIAL = re.compile(
    r"(^|\.)(layers\.\d+\.|self_attention\.|state_fusion\.|outnorm\d+\.|conv2d\.|ln_[12]\.)"
)
_OURS = re.compile(r"(^|\.)(stages|ssm|fusion)\.")


def slots(module: nn.Module) -> list[Slot]:
    """Every authors' tensor that a model, block or mixer holds, in the order of our state dict."""
    return [slot for name, value in module.state_dict().items() for slot in _slots(name, tuple(value.shape))]


def _slots(name: str, stored: tuple[int, ...]) -> list[Slot]:
    official = re.sub(r"(^|\.)norm([12])\.(\w+)$", r"\1ln_\2.\3", official_name(name, "outnorm"))
    official = re.sub(r"(^|\.)mixer\.", r"\1self_attention.", official)
    if match := re.search(r"(^|\.)fusion\.(\w+)$", official):
        base = f"{official[: match.start()]}{match[1]}state_fusion."
        if match[2] == "alpha":
            return [Slot(f"{base}alpha", name, stored, stored=stored)]
        return [Slot(base + kernel, name, stored[1:], 0, i) for i, kernel in enumerate(_KERNELS)]
    if match := re.search(r"(^|\.)ssm\.(\w+)$", official):
        return [
            Slot(
                official[: match.start(2) - len("ssm.")] + SS2D_CORE[match[2]],
                name,
                stored[1:],
                stored=stored,
            )
        ]
    official = (
        re.sub(r"(^|\.)conv\.(weight|bias)$", r"\1conv2d.\2", official) if _is_mixers(official) else official
    )
    return [Slot(official, name, stored, stored=stored)]


def _is_mixers(name: str) -> bool:
    return "self_attention." in name or name.startswith("conv.")


def is_official(names: Iterable[str]) -> bool:
    """Whether some of these names are the authors' and cannot be ours."""
    return any(_OFFICIAL.search(name) and not _OURS.search(name) for name in names)


def holds_spatial_mamba(names: Iterable[str]) -> bool:
    """Whether a state dict with these names, the authors' or ours, is a Spatial-Mamba's."""
    return any(re.search(r"\.(self_attention\.state_fusion|mixer\.fusion)\.alpha$", name) for name in names)


def spell(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """There is one spelling."""
    return dict(state)


SPATIAL_MAMBA = Dialect((SpatialBlock, SpatialSS2D), slots, is_official, spell)
