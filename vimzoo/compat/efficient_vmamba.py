"""The EfficientVMamba authors' constructors (TerryPei/EfficientVMamba: classification/models/vmamba_efficient.py).

They return our modules: arguments keep their names, positions, defaults and meaning, and ``load_state_dict`` takes the
authors' keys. `official_state_dict` and `official_gradients` write state and gradients back under their names.
`vimzoo.models.EfficientVMamba` documents each option; this module only maps the names.

Upstream bugs that are not imitated: a ``step_size`` other than 2 reads memory that was never written, and is refused; a
backbone that cannot load its file raises an error instead of staying random; an unknown argument is refused.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vimzoo import layers
from vimzoo.models.efficient_vmamba import EfficientVMamba
from vimzoo.models.efficient_vmamba.model import EfficientVMambaDense

from .attributes import defaults_of, given_arguments, refuse_unknown
from .official import official_gradients, official_state_dict
from .vmamba_layers import OfficialBlock, ScanNames
from .vmamba_models import ClassifierNames, Stages
from .vmamba_options import one_of

__all__ = ["Backbone_EfficientVSSM", "EfficientVSSM", "official_gradients", "official_state_dict"]

WITHOUT_EFFECT = ("window_size",)
"""What their builder passes on, and their ``**kwargs`` swallow."""
_OURS = ("device", "dtype")
_DOWNSAMPLES = {"v1": "merge", "v2": "conv2"}


class _Scan(ScanNames, layers.AtrousSS2D):
    def _get_name(self) -> str:
        return "SS2D"


class _Block(OfficialBlock, layers.AtrousBlock):
    scan_class = _Scan


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """`EfficientVSSM`'s arguments -> `EfficientVMamba`'s, without that of the classifier."""
    if given["norm_layer"] is not nn.LayerNorm:
        raise ValueError(
            f"norm_layer: expected torch.nn.LayerNorm, others are not offered, got {given['norm_layer']!r}"
        )
    if given["step_size"] != 2:
        raise ValueError(f"step_size: expected 2, others are not offered, got {given['step_size']!r}")
    return dict(
        patch_size=given["patch_size"], in_chans=given["in_chans"], depths=given["depths"], dims=given["dims"],
        ratio=given["ssm_ratio"], drop_path_rate=given["drop_path_rate"], mlp_ratio=given["mlp_ratio"],
        stem_norm=given["patch_norm"],
        downsample=one_of("downsample_version", given["downsample_version"], _DOWNSAMPLES),
        device=given.get("device"), dtype=given.get("dtype"),
    )  # fmt: skip


class EfficientVSSM(ClassifierNames, EfficientVMamba):
    """EfficientVMamba with the authors' arguments, positions and defaults.

    ``d_state``, ``dt_rank``, ``attn_drop_rate``, ``shared_ssm``, ``softmax_version`` and ``drop_rate`` have no effect,
    as in theirs: there are 16 states, and the rank is a sixteenth of the width. ``device`` and ``dtype`` are ours.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    block_class = _Block

    def __init__(
        self,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        depths: Sequence[int] = (2, 2, 9, 2),
        dims: int | Sequence[int] = (96, 192, 384, 768),
        d_state: int = 16,
        dt_rank: int | str = "auto",
        ssm_ratio: float = 2.0,
        attn_drop_rate: float = 0.0,
        shared_ssm: bool = False,
        softmax_version: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        mlp_ratio: float = 4.0,
        patch_norm: bool = True,
        norm_layer: Any = nn.LayerNorm,
        downsample_version: str = "v2",
        use_checkpoint: bool = False,
        step_size: int = 2,
        **kwargs: Any,
    ) -> None:
        given = given_arguments(locals())
        refuse_unknown("EfficientVSSM", kwargs, (*WITHOUT_EFFECT, *_OURS))
        super().__init__(num_classes=num_classes, **_options(given))
        self.finish({**given, "norm_layer": "ln"})


_DEFAULTS = defaults_of(EfficientVSSM.__init__)


class Backbone_EfficientVSSM(Stages, EfficientVMambaDense):
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
        norm_layer: Any = nn.LayerNorm,
        **kwargs: Any,
    ) -> None:
        refuse_unknown("Backbone_EfficientVSSM", kwargs, (*_DEFAULTS, *WITHOUT_EFFECT, *_OURS))
        given = {**_DEFAULTS, "norm_layer": norm_layer, **kwargs}
        super().__init__(out_indices, **_options(given))
        self.finish({**given, "norm_layer": "ln"})
        if pretrained is not None:
            self.load_classifier(pretrained)

    def forward(self, x: Tensor) -> list[Tensor] | Tensor:  # type: ignore[override]
        """Images ``(B, C, H, W)`` -> maps; without ``out_indices`` the last stage's, ``(B, h, w, D)``."""
        return super().forward(x) if self.out_indices else self.stages(self._embed(x))
