"""The Spatial-Mamba authors' constructors (EdwardChasel/Spatial-Mamba: classification/models/spatialmamba.py).

They return our modules: arguments keep their names, positions, defaults and meaning, and ``load_state_dict`` takes the
authors' keys. `official_state_dict` and `official_gradients` write state and gradients back under their names.
`vimzoo.models.SpatialMamba` documents each option; this module only maps the names.

Upstream bugs that are not imitated: in evaluation the filters of the fusion stay those of the first forward pass,
whatever is loaded or trained later; there are no gradients in evaluation; ``d_state`` above 1 fails, and is refused; a
backbone that cannot load its file raises an error instead of staying random; an unknown argument is refused.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vimzoo import layers, models
from vimzoo.models.spatial_mamba.model import SpatialMambaDense

from .attributes import Alias, OfficialAttributes, View, defaults_of, given_arguments, refuse_unknown
from .official import accept_official_names, official_gradients, official_state_dict
from .staged_models import LinearHead, OfficialStages, only

__all__ = [
    "Backbone_SpatialMamba",
    "SpatialMamba",
    "StructureAwareSSM",
    "official_gradients",
    "official_state_dict",
]

_OURS = ("device", "dtype")


class _Fusion(OfficialAttributes, layers.StateFusion):
    """The fusion with the authors' names of its filters."""

    kernel_3, kernel_3_1, kernel_3_2 = View("weight", 0), View("weight", 1), View("weight", 2)


class _ScanNames(OfficialAttributes):
    """The authors' names of a mixer's parts."""

    conv2d, dropout, state_fusion = Alias("conv"), Alias("drop"), Alias("fusion")
    x_proj_weight, dt_projs_weight, dt_projs_bias = (
        View("ssm.x_proj", 0),
        View("ssm.dt_proj", 0),
        View("ssm.dt_bias", 0),
    )
    A_logs, Ds = View("ssm.A_log", 0), View("ssm.D", 0)


class _Scan(_ScanNames, layers.SpatialSS2D):
    fusion_class = _Fusion

    def _get_name(self) -> str:
        return "StructureAwareSSM"


class StructureAwareSSM(_ScanNames, layers.SpatialSS2D):
    """The mixer with the authors' arguments.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    fusion_class = _Fusion

    def __init__(
        self,
        d_model: int,
        d_state: int = 1,
        d_conv: int = 3,
        expand: float = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        dropout: float = 0.0,
        conv_bias: bool = True,
        bias: bool = False,
        device: Any = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        refuse_unknown("StructureAwareSSM", kwargs)
        for name, found, expected in (
            ("d_state", d_state, 1), ("d_conv", d_conv, 3), ("conv_bias", conv_bias, True), ("bias", bias, False),
        ):  # fmt: skip
            only(name, found, expected)
        super().__init__(
            d_model, expand, None if dt_rank == "auto" else int(dt_rank), dropout, device=device, dtype=dtype,
            dt_min=dt_min, dt_max=dt_max, dt_floor=dt_init_floor, dt_scale=dt_scale, dt_init=dt_init,
        )  # fmt: skip
        accept_official_names(self)


class _Block(OfficialAttributes, layers.SpatialBlock):
    scan_class = _Scan
    ln_1, ln_2, self_attention = Alias("norm1"), Alias("norm2"), Alias("mixer")

    def _get_name(self) -> str:
        return "SpatialMambaBlock"


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """`SpatialMamba`'s arguments -> those of `vimzoo.models.SpatialMamba`, without the classifier's."""
    only("patch_size", given["patch_size"], 4)
    only("d_state", given["d_state"], 1)
    only("norm_layer", given["norm_layer"], nn.LayerNorm)
    return dict(
        in_chans=given["in_chans"], depths=given["depths"], dims=given["dims"], dt_init=given["dt_init"],
        mlp_ratio=given["mlp_ratio"], pos_drop_rate=given["drop_rate"], ssm_drop_rate=given["attn_drop_rate"],
        drop_path_rate=given["drop_path_rate"], device=given.get("device"), dtype=given.get("dtype"),
    )  # fmt: skip


class SpatialMamba(LinearHead, models.SpatialMamba):
    """Spatial-Mamba with the authors' arguments, positions and defaults.

    ``img_size`` and ``patch_norm`` have no effect, as in theirs. ``device`` and ``dtype`` are ours.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    block_class = _Block

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        depths: Sequence[int] = (2, 2, 9, 2),
        dims: int | Sequence[int] = (96, 192, 384, 768),
        d_state: int = 1,
        dt_init: str = "random",
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        norm_layer: Any = nn.LayerNorm,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        **kwargs: Any,
    ) -> None:
        given = given_arguments(locals())
        refuse_unknown("SpatialMamba", kwargs, _OURS)
        super().__init__(num_classes=num_classes, **_options(given))
        self.finish(given)


_DEFAULTS = defaults_of(SpatialMamba.__init__)


class Backbone_SpatialMamba(OfficialStages, SpatialMambaDense):
    """The authors' OpenMMLab backbone: a list of maps ``(B, D, h, w)``.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
        vimzoo.CheckpointError: ``pretrained``, a classifier's file, does not fit.
    """

    block_class = _Block

    def __init__(
        self,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        pretrained: str | os.PathLike[str] | None = None,
        norm_layer: str = "ln",
        **kwargs: Any,
    ) -> None:
        refuse_unknown("Backbone_SpatialMamba", kwargs, (*_DEFAULTS, *_OURS))
        only("norm_layer", norm_layer, "ln")
        given = {**_DEFAULTS, **kwargs}
        super().__init__(out_indices, **_options(given))
        self.finish(given)
        if pretrained is not None:
            self.load_classifier(pretrained)

    def forward(self, x: Tensor) -> list[Tensor] | Tensor:  # type: ignore[override]
        """Images ``(B, C, H, W)`` -> maps; without ``out_indices`` the last stage's, ``(B, h, w, D)``."""
        return super().forward(x) if self.out_indices else self.stages(self._embed(x))
