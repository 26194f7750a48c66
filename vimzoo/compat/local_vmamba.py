"""The LocalVMamba authors' constructors (hunto/LocalMamba: classification/lib/models/local_vmamba.py), returning ours.

Code written for theirs works after changing its import line: arguments keep their names, positions, defaults and
meaning, and ``load_state_dict`` takes their keys. `official_state_dict` and `official_gradients` write state and
gradients back under their names. `vimzoo.models.LocalVMamba` documents each option; this module only maps the names.

Upstream bugs that are not imitated: columns of a map that is not square are put back in a wrong order; the registered
functions ignore ``num_classes`` and all other arguments but the drop path rate.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import timm
from torch import Tensor, nn

from vimzoo import layers
from vimzoo.models.local_vmamba import LOCAL_VMAMBA_FACTS, LOCAL_VMAMBA_NAMES, LocalVMamba
from vimzoo.models.local_vmamba.model import LocalVMambaDense

from .attributes import defaults_of, given_arguments, refuse_unknown
from .official import accept_official_names, official_gradients, official_state_dict
from .vmamba_layers import OfficialBlock, ScanNames
from .vmamba_models import ClassifierNames, Stages
from .vmamba_options import activation, one_of

__all__ = [
    "SS2D",
    "VSSM",
    "Backbone_LocalVSSM",
    "local_vssm_small",
    "local_vssm_small_search",
    "local_vssm_tiny",
    "local_vssm_tiny_search",
    "official_gradients",
    "official_state_dict",
]

WITHOUT_EFFECT = ("d_state",)
"""What their registered functions pass on, and their ``**kwargs`` swallow."""
_OURS = ("device", "dtype")


class _Scan(ScanNames, layers.LocalSS2D):
    def _get_name(self) -> str:
        return "SS2D"


class _Block(OfficialBlock, layers.LocalVSSBlock):
    scan_class = _Scan


class SS2D(ScanNames, layers.LocalSS2D):
    """SS2D with the authors' arguments.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    def __init__(
        self,
        d_model: int = 96,
        d_state: int = 16,
        ssm_ratio: float = 2.0,
        dt_rank: int | str = "auto",
        act_layer: Any = nn.SiLU,
        d_conv: int = 3,
        conv_bias: bool = True,
        dropout: float = 0.0,
        bias: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        simple_init: bool = False,
        directions: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_unknown("SS2D", kwargs, _OURS)
        super().__init__(
            d_model, d_state, ssm_ratio, None if dt_rank == "auto" else int(dt_rank),
            activation("act_layer", act_layer), d_conv, conv_bias, bias, gate="act", paths=directions,
            init="random" if simple_init else "mamba", drop_rate=dropout, dt_min=dt_min, dt_max=dt_max,
            dt_floor=dt_init_floor, dt_scale=dt_scale, dt_init=dt_init, **kwargs,
        )  # fmt: skip
        accept_official_names(self)


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """`VSSM`'s arguments -> `LocalVMamba`'s, without that of the classifier."""
    rank = given["ssm_dt_rank"]
    return dict(
        patch_size=given["patch_size"], in_chans=given["in_chans"], depths=given["depths"], dims=given["dims"],
        d_state=given["ssm_d_state"], ratio=given["ssm_ratio"], dt_rank=None if rank == "auto" else rank,
        act=activation("ssm_act_layer", given["ssm_act_layer"].lower()), d_conv=given["ssm_conv"],
        conv_bias=given["ssm_conv_bias"], ssm_drop_rate=given["ssm_drop_rate"],
        init="random" if given["ssm_simple_init"] else "mamba", drop_path_rate=given["drop_path_rate"],
        stem_norm=given["patch_norm"], norm=one_of("norm_layer", given["norm_layer"].lower(), {"ln": "layer"}),
        directions=given["directions"], device=given.get("device"), dtype=given.get("dtype"),
    )  # fmt: skip


class VSSM(ClassifierNames, LocalVMamba):
    """LocalVMamba with the authors' arguments, positions and defaults.

    ``d_state`` has no effect, as in theirs; ``device`` and ``dtype`` are ours.

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
        ssm_d_state: int = 16,
        ssm_ratio: float = 2.0,
        ssm_dt_rank: int | str = "auto",
        ssm_act_layer: str = "silu",
        ssm_conv: int = 3,
        ssm_conv_bias: bool = True,
        ssm_drop_rate: float = 0.0,
        ssm_simple_init: bool = False,
        drop_path_rate: float = 0.1,
        patch_norm: bool = True,
        norm_layer: str = "LN",
        use_checkpoint: bool = False,
        directions: Sequence[Sequence[str] | None] | None = None,
        **kwargs: Any,
    ) -> None:
        given = given_arguments(locals())
        refuse_unknown("VSSM", kwargs, (*WITHOUT_EFFECT, *_OURS))
        super().__init__(num_classes=num_classes, **_options(given))
        self.finish(given)


_DEFAULTS = defaults_of(VSSM.__init__)


class Backbone_LocalVSSM(Stages, LocalVMambaDense):
    """The authors' OpenMMLab backbone: a list of maps ``(B, D, h, w)``.

    ``norm_layer``, the kind of the added norms, must be ``nn.LayerNorm``.

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
        refuse_unknown("Backbone_LocalVSSM", kwargs, (*_DEFAULTS, *WITHOUT_EFFECT, *_OURS))
        if norm_layer is not nn.LayerNorm:
            raise ValueError(
                f"norm_layer: expected torch.nn.LayerNorm, others are not offered, got {norm_layer!r}"
            )
        given = {**_DEFAULTS, **kwargs}
        super().__init__(out_indices, **_options(given))
        self.finish(given)
        if pretrained is not None:
            self.load_classifier(pretrained)

    def forward(self, x: Tensor) -> list[Tensor] | Tensor:  # type: ignore[override]
        """Images ``(B, C, H, W)`` -> maps; without ``out_indices`` the last stage's, ``(B, h, w, D)``."""
        return super().forward(x) if self.out_indices else self.stages(self._embed(x))


def _registered(name: str) -> Callable[..., VSSM]:
    facts = LOCAL_VMAMBA_FACTS[str(LOCAL_VMAMBA_NAMES[name]).partition(".")[0]]
    rate = 0.1 if name.endswith("search") else 0.2

    def build(*, pretrained: bool = False, drop_path_rate: float = rate, **kwargs: Any) -> VSSM:
        sizes = {key: facts.args[key] for key in ("dims", "depths", "directions") if key in facts.args}
        model = VSSM(**{**sizes, "drop_path_rate": drop_path_rate, **kwargs})
        if pretrained:
            source = timm.create_model(
                facts.tagged_name, pretrained=True, num_classes=model.num_classes, in_chans=model.in_chans
            )
            model.load_state_dict(source.state_dict())
        return model

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"`{facts.tagged_name}` under the authors' name."
    return build


local_vssm_tiny = _registered("local_vssm_tiny")
local_vssm_small = _registered("local_vssm_small")
local_vssm_tiny_search = _registered("local_vssm_tiny_search")
local_vssm_small_search = _registered("local_vssm_small_search")
