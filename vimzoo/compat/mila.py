"""The MILA authors' constructors (LeapLabTHU/MLLA: models/mlla.py, and downstream for the backbone).

They return our modules: arguments keep their names, positions, defaults and meaning, and ``load_state_dict`` takes the
authors' keys, except the tables of angles, which follow from the map. `official_state_dict` and `official_gradients`
write state and gradients back under their names. `vimzoo.models.MILA` documents each option; this module only maps the
names.

Upstream limits that are not imitated: the classifier takes square images of one size only, here of any; an unknown
argument is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vimzoo import layers, models
from vimzoo.models.mila.model import MILADense

from .attributes import Alias, OfficialAttributes, defaults_of, given_arguments, refuse_unknown
from .official import official_gradients, official_state_dict
from .staged_models import LinearHead, OfficialStages, only

__all__ = ["MLLA", "Backbone_MLLA", "official_gradients", "official_state_dict"]

_OURS = ("device", "dtype")


class _Block(OfficialAttributes, layers.MilaBlock):
    in_proj, act_proj, dwc, attn, out_proj = (
        Alias("mixer.in_proj"),
        Alias("mixer.gate_proj"),
        Alias("mixer.conv"),
        Alias("mixer.attention"),
        Alias("mixer.out_proj"),
    )

    def _get_name(self) -> str:
        return "MLLABlock"


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """`MLLA`'s arguments -> those of `vimzoo.models.MILA`, without the classifier's."""
    only("patch_size", given["patch_size"], 4)
    only("norm_layer", given["norm_layer"], nn.LayerNorm)
    return dict(
        img_size=given["img_size"], in_chans=given["in_chans"], dims=given["embed_dim"], depths=given["depths"],
        num_heads=given["num_heads"], mlp_ratio=given["mlp_ratio"], qk_bias=given["qkv_bias"],
        pos_drop_rate=given["drop_rate"], mlp_drop_rate=given["drop_rate"], drop_path_rate=given["drop_path_rate"],
        pos_embed=given["ape"], device=given.get("device"), dtype=given.get("dtype"),
    )  # fmt: skip


class MLLA(LinearHead, models.MILA):
    """MILA with the authors' arguments, positions and defaults; ``device`` and ``dtype`` are ours.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    block_class = _Block

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        norm_layer: Any = nn.LayerNorm,
        ape: bool = False,
        use_checkpoint: bool = False,
        **kwargs: Any,
    ) -> None:
        given = given_arguments(locals())
        refuse_unknown("MLLA", kwargs, _OURS)
        super().__init__(num_classes=num_classes, **_options(given))
        self.finish(given)


_DEFAULTS = defaults_of(MLLA.__init__)
_WITHOUT_EFFECT = ("num_classes", "init_cfg")


class Backbone_MLLA(OfficialStages, MILADense):
    """The authors' OpenMMLab backbone, which they call ``MLLA``, too: images -> a tuple of maps ``(B, D, h, w)``.

    ``num_classes`` and ``init_cfg`` change no result. As in theirs, images are padded with zeros to multiples of 4, and
    odd maps to even ones before they are downsampled.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    block_class = _Block

    def __init__(self, *, out_indices: Sequence[int] = (0, 1, 2, 3), **kwargs: Any) -> None:
        refuse_unknown("Backbone_MLLA", kwargs, (*_DEFAULTS, *_WITHOUT_EFFECT, *_OURS))
        given = {**_DEFAULTS, **kwargs}
        super().__init__(out_indices, **_options(given))
        self.finish(given)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Images ``(B, C, H, W)`` -> maps."""
        x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
        return tuple(super().forward(x))
