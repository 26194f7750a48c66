"""The PlainMamba authors' constructors (ChenhongyiYang/PlainMamba: mmcls/plain_mamba_dev/models), returning ours.

Code written for theirs works after changing its import line: arguments keep their names, positions, defaults and
meaning, and ``load_state_dict`` takes their keys. `ImageClassifier` takes the entries of ``model`` in their
configurations; OpenMMLab's libraries are not needed. `official_state_dict` and `official_gradients` write state and
gradients back under their names. `vimzoo.models.PlainMamba` documents each option; this module only maps the names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vimzoo import layers, models
from vimzoo.models.plain_mamba.dense import PlainMambaDense

from .attributes import Alias, OfficialModel, View, defaults_of, given_arguments, refuse_unknown
from .official import accept_official_names, official_gradients, official_state_dict

__all__ = ["ImageClassifier", "PlainMamba", "PlainMamba2D", "official_gradients", "official_state_dict"]

_MIXER = {
    "d_state": "d_state", "expand": "expand", "conv_size": "d_conv", "conv_bias": "conv_bias", "bias": "proj_bias",
    "init_layer_scale": "layer_scale",
}  # fmt: skip
_INITIAL = ("dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "default_hw_shape")
"""Arguments of a mixer that change no result: their configurations initialise its projections anew."""
_L1: dict[str, Any] = dict(patch_size=16, embed_dims=192, num_layers=24, num_convs_patch_embed=1)
_COMMON: dict[str, Any] = dict(
    layers_with_dwconv=(), layer_cfgs={"use_rms_norm": False, "mamba_cfg": {"d_state": 16, "bias": True}}
)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "L1": {**_COMMON, **_L1, "layers_with_dwconv": (0,)},
    "L2": {**_COMMON, **_L1, "embed_dims": 384, "num_convs_patch_embed": 2},
    "L3": {**_COMMON, **_L1, "embed_dims": 448, "num_layers": 36, "num_convs_patch_embed": 2},
}
"""What ``arch`` stands for; it overrides the arguments of these names."""
_WITHOUT_EFFECT = ("type", "num_classes")


class PlainMamba2D(layers.SnakeSS2D):
    """The mixer with the authors' arguments; ``default_hw_shape`` changes no result.

    Raises:
        ValueError: an argument has no such value.
    """

    A_log, D = View("ssm.A_log", 0), View("ssm.D", 0)

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        expand: float = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_size: int = 7,
        conv_bias: bool = True,
        bias: bool = False,
        init_layer_scale: float | None = None,
        default_hw_shape: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(
            d_model, d_state, expand, None if dt_rank == "auto" else int(dt_rank), conv_size, conv_bias, bias,
            init_layer_scale, dt_min=dt_min, dt_max=dt_max, dt_init=dt_init, dt_scale=dt_scale, dt_floor=dt_init_floor,
        )  # fmt: skip
        accept_official_names(self)

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:  # type: ignore[override]
        """Tokens ``(B, L, D)`` of a map of ``hw_shape`` -> the same."""
        return super().forward(x.unflatten(1, hw_shape)).flatten(1, 2)


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """`PlainMamba`'s arguments -> those of `vimzoo.models.PlainMamba`, without the classifier's."""
    if given["arch"] is not None:
        if given["arch"] not in ARCHITECTURES:
            raise ValueError(f"arch: expected one of {tuple(ARCHITECTURES)} or None, got {given['arch']!r}")
        given = {**given, **ARCHITECTURES[given["arch"]]}
    layer = dict(given["layer_cfgs"])
    mixer = dict(layer.pop("mamba_cfg", {}))
    rms, rank = layer.pop("use_rms_norm", False), mixer.pop("dt_rank", "auto")
    refuse_unknown("layer_cfgs", layer)
    refuse_unknown("mamba_cfg", mixer, (*_MIXER, *_INITIAL))
    named = {_MIXER[key]: value for key, value in mixer.items() if key in _MIXER}
    return dict(
        img_size=given["img_size"], patch_size=given["patch_size"], in_chans=given["in_channels"],
        embed_dim=given["embed_dims"], depth=given["num_layers"], stem_convs=given["num_convs_patch_embed"],
        dw_blocks=tuple(given["layers_with_dwconv"]), pos_embed=given["with_pos_embed"],
        pos_drop_rate=given["drop_rate"], drop_path_rate=given["drop_path_rate"], norm="rms" if rms else "layer",
        dt_rank=None if rank == "auto" else rank, **{"proj_bias": False, **named},
    )  # fmt: skip


class PlainMamba(OfficialModel, PlainMambaDense):
    """The authors' backbone: images -> tokens ``(B, L, D)`` and a tuple of maps ``(B, D, h, w)``.

    ``init_cfg``, ``test_cfg``, ``convert_syncbn`` and ``num_classes`` change no result. ``norm_cfg``,
    ``interpolate_mode`` and ``freeze_patch_embed`` are not offered.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    layers = Alias("blocks")
    embed_dims = Alias("embed_dim")

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_channels: int = 3,
        arch: str | None = None,
        patch_size: int = 16,
        embed_dims: int = 192,
        num_layers: int = 20,
        num_convs_patch_embed: int = 1,
        with_pos_embed: bool = True,
        out_indices: int | Sequence[int] = -1,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_cfg: Mapping[str, Any] | None = None,
        final_norm: bool = True,
        interpolate_mode: str = "bicubic",
        layer_cfgs: Mapping[str, Any] | None = None,
        layers_with_dwconv: Sequence[int] = (),
        init_cfg: Any = None,
        test_cfg: Any = None,
        convert_syncbn: bool = False,
        freeze_patch_embed: bool = False,
        **kwargs: Any,
    ) -> None:
        given = given_arguments(locals())
        refuse_unknown("PlainMamba", kwargs, _WITHOUT_EFFECT)
        if norm_cfg not in (None, {"type": "LN", "eps": 1e-6}):
            raise ValueError(
                f"norm_cfg: expected LayerNorm with eps 1e-6, others are not offered, got {norm_cfg!r}"
            )
        if interpolate_mode != "bicubic" or freeze_patch_embed:
            raise ValueError(
                "interpolate_mode, freeze_patch_embed: expected 'bicubic' and False, others are not offered, got "
                f"{interpolate_mode!r} and {freeze_patch_embed!r}"
            )
        indices = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
        super().__init__(indices, final_norm, **_options({**given, "layer_cfgs": layer_cfgs or {}}))
        self.arguments = given
        self.official_spelling = "backbone"
        accept_official_names(self)


_DEFAULTS = defaults_of(PlainMamba.__init__)


class ImageClassifier(OfficialModel, models.PlainMamba):
    """The classifier of an authors' configuration: ``ImageClassifier(**cfg.model)``, images -> logits.

    Args:
        backbone: Arguments of `PlainMamba`, with or without ``type``.
        head: ``num_classes``; 1000 by default. Its other entries are for training.
        neck, train_cfg, init_cfg, type: Change no result.

    Raises:
        TypeError: an argument of the backbone is unknown.
        ValueError: an argument has no such value.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        neck: Any = None,
        head: Mapping[str, Any] | None = None,
        train_cfg: Any = None,
        init_cfg: Any = None,
        type: str = "ImageClassifier",
    ) -> None:
        refuse_unknown("PlainMamba", backbone, (*_DEFAULTS, *_WITHOUT_EFFECT))
        given = {**_DEFAULTS, **backbone}
        options = _options({**given, "layer_cfgs": given["layer_cfgs"] or {}})
        super().__init__(num_classes=(head or {}).get("num_classes", 1000), **options)
        self.arguments = given
        accept_official_names(self)
