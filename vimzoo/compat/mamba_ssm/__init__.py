"""mamba_ssm's names, of state-spaces/mamba and of the Vim authors' fork: change the import line, keep the code.

The modules have the same places: ``from mamba_ssm.ops.selective_scan_interface import ...`` becomes
``from vimzoo.compat.mamba_ssm.ops.selective_scan_interface import ...``. This package itself exports all names, too.
`Mamba` is `vimzoo.layers.BiMamba`, `selective_scan_fn` is `vimzoo.ops.selective_scan`, the fused functions are calls of
`vimzoo.ops.causal_conv1d`, `vimzoo.ops.selective_scan` and `vimzoo.ops.add_norm`.

Not imitated: ``use_fast_path=False`` and ``inference_params``, which silently turn the fork's bidirectional
mixers into forward ones; token-by-token inference is not offered.
"""

from .modules.mamba_simple import Mamba
from .ops.selective_scan_interface import (
    bimamba_inner_fn,
    bimamba_inner_ref,
    mamba_inner_fn,
    mamba_inner_fn_no_out_proj,
    mamba_inner_ref,
    selective_scan_fn,
    selective_scan_ref,
)
from .ops.triton.layer_norm import RMSNorm, layer_norm_fn, rms_norm_fn

__all__ = [
    "Mamba",
    "RMSNorm",
    "bimamba_inner_fn",
    "bimamba_inner_ref",
    "layer_norm_fn",
    "mamba_inner_fn",
    "mamba_inner_fn_no_out_proj",
    "mamba_inner_ref",
    "rms_norm_fn",
    "selective_scan_fn",
    "selective_scan_ref",
]
