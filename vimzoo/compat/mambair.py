"""The MambaIR authors' constructors (csguoh/MambaIR: basicsr/archs and realDenoising), returning our modules.

Code written for theirs works after changing its import line: arguments keep their names, positions, defaults and
meaning, and ``load_state_dict`` takes their keys. The same call built different networks over time: blocks of light
models had three forms, the U-Net's scans two sets of sizes. ``load_state_dict`` reads the form off the tensors and
rebuilds what differs, so load before an optimiser is given the parameters. `official_state_dict` and
`official_gradients` write state and gradients back under their names. `vimzoo.models` documents each option.

Upstream bugs that are not imitated: ``use_checkpoint=True`` works, MambaIRv2 takes images smaller than half a
window, tokens of a class are always scanned in the map's order, and an unknown argument is refused. Refused, too:
``dual_pixel_task=True``, which runs nowhere.
"""

from torch import Tensor, nn

from vimzoo.layers.attentive import relative_index
from vimzoo.models.mambair import v2 as mambair_v2_model
from vimzoo.models.mambair.names import INDEX_BUFFER

from .group_attention import DynamicPosBias
from .mambair_layers import (
    CAB,
    SS2D,
    Attention,
    ChannelAttention,
    PatchEmbed,
    PatchUnEmbed,
    Upsample,
    UpsampleOneStep,
    VSSBlock,
)
from .mambair_models import MambaIR, MambaIRUNet, MambaIRv2, MambaIRv2Light
from .official import official_gradients
from .official import official_state_dict as _official_state_dict

__all__ = [
    "CAB", "SS2D", "Attention", "ChannelAttention", "DynamicPosBias", "MambaIR", "MambaIRUNet", "MambaIRv2",
    "MambaIRv2Light", "PatchEmbed", "PatchUnEmbed", "Upsample", "UpsampleOneStep", "VSSBlock", "official_gradients",
    "official_state_dict",
]  # fmt: skip


def official_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The state of a model or block under the authors' names, with the index table that MambaIRv2 files hold."""
    state = _official_state_dict(module)
    window = getattr(module, "window", None)
    if isinstance(module, mambair_v2_model.MambaIRv2) and window is not None:
        state[INDEX_BUFFER] = relative_index(window, window)
    return state
