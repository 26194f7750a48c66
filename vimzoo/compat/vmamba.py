"""The VMamba authors' constructors (MzeroMiko/VMamba: classification/models/vmamba.py), returning our modules.

Code written for theirs works after changing its import line: arguments keep their names, positions, defaults and
meaning, and ``load_state_dict`` takes their keys, of either of their files and of the first release. Where the
repository's single ``vmamba.py`` has other positions, `vimzoo.compat.vmamba_single_file` has them.
`official_state_dict` and `official_gradients` write state and gradients back under their names.
`vimzoo.models.VMamba` and `vimzoo.layers.SS2D` document each option; this module only maps the names.

Upstream bugs that are not imitated: ``forward_type="v2"`` (the default), Mamba-2 with a gate or in channel-first
models, and cascades in channel-last ones run; odd maps are merged; a backbone that cannot load its file raises an error
instead of staying random; an unknown argument is refused. Not offered: the ``xv`` types, which no longer run.
"""

from collections.abc import Callable
from typing import Any

import timm

from vimzoo.models.vmamba import VMAMBA_FACTS

from .official import official_gradients, official_state_dict
from .vmamba_layers import SS2D, LayerNorm2d, Linear2d, Permute, VSSBlock
from .vmamba_models import VSSM, Backbone_VSSM
from .vmamba_ops import (
    cross_merge_fn,
    cross_scan_fn,
    flops_selective_scan_fn,
    selective_scan_chunk_fn,
    selective_scan_fn,
    selective_scan_torch,
)

_FIRST = dict(
    ssm_d_state=16, ssm_ratio=2.0, ssm_conv_bias=True, forward_type="v0", mlp_ratio=0.0, norm_layer="ln",
    downsample_version="v1", patchembed_version="v1",
)  # fmt: skip
_SECOND = dict(
    ssm_d_state=1,
    ssm_conv_bias=False,
    forward_type="v05_noz",
    downsample_version="v3",
    patchembed_version="v2",
)
_MAMBA2 = dict(
    _SECOND,
    ssm_d_state=64,
    ssm_ratio=1.0,
    ssm_act_layer="gelu",
    ssm_init="v2",
    forward_type="m0_noz",
    norm_layer="ln",
)
PUBLISHED: dict[str, tuple[str, dict[str, Any], float]] = {
    "vanilla_vmamba_tiny": ("vmamba_tiny_v0", _FIRST, 0.2),
    "vanilla_vmamba_small": ("vmamba_small_v0", _FIRST, 0.3),
    "vanilla_vmamba_base": ("vmamba_base_v0", _FIRST, 0.6),
    "vmamba_tiny_s2l5": ("vmamba_tiny_s2l5", dict(_SECOND, ssm_ratio=2.0), 0.2),
    "vmamba_small_s2l15": ("vmamba_small_s2l15", dict(_SECOND, ssm_ratio=2.0), 0.3),
    "vmamba_base_s2l15": ("vmamba_base_s2l15", dict(_SECOND, ssm_ratio=2.0), 0.6),
    "vmamba_tiny_s1l8": ("vmamba_tiny_s1l8", dict(_SECOND, ssm_ratio=1.0), 0.2),
    "vmamba_small_s1l20": ("vmamba_small_s1l20", dict(_SECOND, ssm_ratio=1.0), 0.3),
    "vmamba_base_s1l20": ("vmamba_base_s1l20", dict(_SECOND, ssm_ratio=1.0), 0.5),
    "vmamba_tiny_m2": ("vmamba_tiny_m2", _MAMBA2, 0.2),
    "vmamba_small_m2": ("vmamba_small_m2", _MAMBA2, 0.3),
    "vmamba_base_m2": ("vmamba_base_m2", _MAMBA2, 0.3),
}
"""Their function -> our registered model, its options by their names, and the drop path rate that they fix."""

__all__ = [
    "SS2D",
    "VSSM",
    "Backbone_VSSM",
    "LayerNorm2d",
    "Linear2d",
    "Permute",
    "VSSBlock",
    "cross_merge_fn",
    "cross_scan_fn",
    "flops_selective_scan_fn",
    "official_gradients",
    "official_state_dict",
    "selective_scan_chunk_fn",
    "selective_scan_fn",
    "selective_scan_torch",
    "vanilla_vmamba_base",
    "vanilla_vmamba_small",
    "vanilla_vmamba_tiny",
    "vmamba_base_m2",
    "vmamba_base_s1l20",
    "vmamba_base_s2l15",
    "vmamba_small_m2",
    "vmamba_small_s1l20",
    "vmamba_small_s2l15",
    "vmamba_tiny_m2",
    "vmamba_tiny_s1l8",
    "vmamba_tiny_s2l5",
]


def build_published(function: str, pretrained: bool, channel_first: bool, options: dict[str, Any]) -> VSSM:
    """The model of an authors' function, a key of `PUBLISHED`; ``options`` are `VSSM`'s."""
    name, fixed, rate = PUBLISHED[function]
    facts = VMAMBA_FACTS[name]
    sizes = {key: facts.args[key] for key in ("depths", "dims")}
    given = dict(norm_layer="ln2d" if channel_first else "ln", drop_path_rate=rate, **sizes)
    model = VSSM(**{**given, **fixed, **options})
    if pretrained:
        source = timm.create_model(
            facts.tagged_name, pretrained=True, num_classes=model.num_classes, in_chans=model.in_chans
        )
        model.load_state_dict(source.state_dict())
    return model


def named(build: Callable[..., VSSM], function: str) -> Callable[..., VSSM]:
    """``build`` under the authors' name."""
    build.__name__ = build.__qualname__ = function
    build.__doc__ = f"`{VMAMBA_FACTS[PUBLISHED[function][0]].tagged_name}` under the authors' name."
    return build


def _published(function: str) -> Callable[..., VSSM]:
    def with_layout(channel_first: bool = True, *, pretrained: bool = False, **options: Any) -> VSSM:
        return build_published(function, pretrained, channel_first, options)

    def plain(*, pretrained: bool = False, **options: Any) -> VSSM:
        return build_published(function, pretrained, False, options)

    return named(plain if "norm_layer" in PUBLISHED[function][1] else with_layout, function)


vanilla_vmamba_tiny = _published("vanilla_vmamba_tiny")
vanilla_vmamba_small = _published("vanilla_vmamba_small")
vanilla_vmamba_base = _published("vanilla_vmamba_base")
vmamba_tiny_s2l5 = _published("vmamba_tiny_s2l5")
vmamba_small_s2l15 = _published("vmamba_small_s2l15")
vmamba_base_s2l15 = _published("vmamba_base_s2l15")
vmamba_tiny_s1l8 = _published("vmamba_tiny_s1l8")
vmamba_small_s1l20 = _published("vmamba_small_s1l20")
vmamba_base_s1l20 = _published("vmamba_base_s1l20")
vmamba_tiny_m2 = _published("vmamba_tiny_m2")
vmamba_small_m2 = _published("vmamba_small_m2")
vmamba_base_m2 = _published("vmamba_base_m2")
