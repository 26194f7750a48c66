"""The VMamba authors' classifier and backbone: our models, with their arguments and attributes."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vimzoo.layers import VSSBlock
from vimzoo.models.vmamba.dense import VMambaDense
from vimzoo.models.vmamba.model import VMamba

from .attributes import Computed, defaults_of, given_arguments, refuse_unknown
from .staged_models import OfficialStages
from .vmamba_layers import SS2D, OfficialBlock, Permute, refuse_other_scan
from .vmamba_options import model_options

WITHOUT_EFFECT = ("ssm_rank_ratio",)
"""What their ``build_vssm_model`` passes on, and their ``**kwargs`` swallow."""
_OURS = ("device", "dtype")


class Classifier(nn.Sequential):
    """The authors' ``classifier``: its norm and head are the model's, also when one of them is assigned."""

    def __init__(self, model: VMamba) -> None:
        parts = OrderedDict[str, nn.Module](
            norm=model.norm,
            permute=Permute(0, 3, 1, 2),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(1),
            head=model.head.fc,
        )
        super().__init__(parts)
        object.__setattr__(self, "_model", model)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        model: Any = self.__dict__.get("_model")
        if model is None or name not in ("norm", "head"):
            return
        if name == "norm":
            model.norm = value
        else:
            model.head.fc = value
            model.num_classes = getattr(value, "out_features", model.num_classes)


class Stages(OfficialStages):
    """What classifier and backbone have of the authors' attributes."""

    block_class: type[VSSBlock] = OfficialBlock
    channel_first: bool

    def finish(self, given: dict[str, Any]) -> None:
        """What constructors do last; ``given`` are their arguments."""
        self.channel_first = given["norm_layer"].lower() in ("bn", "ln2d")
        super().finish(given)


class ClassifierNames(Stages):
    """The authors' name of norm, pooling and head."""

    @Computed
    def classifier(self) -> Classifier:
        """Norm, pooling and head; ``model.classifier.head = nn.Linear(...)`` replaces the head."""
        return Classifier(self)  # type: ignore[arg-type]  # a VMamba, too

    def __delattr__(self, name: str) -> None:
        if name == "classifier":  # as backbones made of theirs do
            model: Any = self
            model.norm = nn.Identity()
            model.reset_classifier(0, "")
        else:
            super().__delattr__(name)


class VSSM(ClassifierNames, VMamba):
    """VMamba with the authors' arguments, positions and defaults.

    ``ssm_rank_ratio`` has no effect, as in theirs; ``device`` and ``dtype`` are ours.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    def __init__(
        self,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        depths: Sequence[int] = (2, 2, 9, 2),
        dims: int | Sequence[int] = (96, 192, 384, 768),
        ssm_d_state: int = 16,
        ssm_ratio: float = 2.0,
        ssm_dt_rank: int | str = "auto",
        ssm_act_layer: str = "silu",
        ssm_conv: int = 3,
        ssm_conv_bias: bool = True,
        ssm_drop_rate: float = 0.0,
        ssm_init: str = "v0",
        forward_type: str = "v2",
        mlp_ratio: float = 4.0,
        mlp_act_layer: str = "gelu",
        mlp_drop_rate: float = 0.0,
        gmlp: bool = False,
        drop_path_rate: float = 0.1,
        patch_norm: bool = True,
        norm_layer: str = "LN",
        downsample_version: str = "v2",
        patchembed_version: str = "v1",
        use_checkpoint: bool = False,
        posembed: bool = False,
        imgsize: int = 224,
        _SS2D: type[nn.Module] = SS2D,
        **kwargs: Any,
    ) -> None:
        given = given_arguments(locals())
        refuse_unknown("VSSM", kwargs, (*WITHOUT_EFFECT, *_OURS))
        refuse_other_scan(_SS2D)
        super().__init__(num_classes=num_classes, **model_options(given))
        self.finish(given)


_DEFAULTS = defaults_of(VSSM.__init__)


class Backbone_VSSM(Stages, VMambaDense):
    """The authors' OpenMMLab backbone: a list of maps ``(B, D, h, w)``.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
        vimzoo.CheckpointError: ``pretrained``, a classifier's file, does not fit.
    """

    def __init__(
        self,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        pretrained: str | os.PathLike[str] | None = None,
        norm_layer: str = "ln",
        **kwargs: Any,
    ) -> None:
        refuse_unknown("Backbone_VSSM", kwargs, (*_DEFAULTS, *WITHOUT_EFFECT, *_OURS))
        given = {**_DEFAULTS, **given_arguments(locals())}
        refuse_other_scan(given["_SS2D"])
        super().__init__(out_indices, **model_options(given))
        self.finish(given)
        if pretrained is not None:
            self.load_classifier(pretrained)

    def forward(self, x: Tensor) -> list[Tensor] | Tensor:  # type: ignore[override]
        """Images ``(B, C, H, W)`` -> maps; without ``out_indices`` the last stage's, laid out as ``norm_layer`` is."""
        if self.out_indices:
            return super().forward(x)
        maps = self.stages(self._embed(x))
        return maps.permute(0, 3, 1, 2) if self.channel_first else maps
