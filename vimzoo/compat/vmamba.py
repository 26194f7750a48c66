"""The VMamba authors' constructors (MzeroMiko/VMamba: classification/models/vmamba.py, and the single vmamba.py),
returning our modules.

Code written for theirs works after changing its import line: arguments keep their names and meaning, and
``load_state_dict`` takes their keys, of either file and of the first release. `official_state_dict` and
`official_gradients` write state and gradients back under their names. `vimzoo.models.VMamba` and
`vimzoo.layers.SS2D` document each option; this module only maps the names.

Upstream bugs that are not imitated: ``forward_type="v2"`` (the default), Mamba-2 with a gate or in channel-first
models, and cascades in channel-last ones run; odd maps are merged; a backbone that cannot load its file raises an error
instead of staying random. Not offered: the ``xv`` types, which no longer run, and ``flops()``.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import timm
from timm.models import checkpoint
from torch import Tensor, nn

from vimzoo import layers
from vimzoo.models.vmamba import VMAMBA_FACTS
from vimzoo.models.vmamba.dense import VMambaDense
from vimzoo.models.vmamba.model import VMamba

from .official import accept_official_names, official_gradients, official_state_dict
from .vmamba_ops import cross_merge_fn, cross_scan_fn, selective_scan_chunk_fn, selective_scan_fn

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
# their function -> our registered model, its options by their names, and the drop path rate that they fix
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

__all__ = [
    "SS2D",
    "VSSM",
    "Backbone_VSSM",
    "VSSBlock",
    "cross_merge_fn",
    "cross_scan_fn",
    "official_gradients",
    "official_state_dict",
    "selective_scan_chunk_fn",
    "selective_scan_fn",
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

NORMS = {"ln": "layer", "ln2d": "layer", "bn": "batch"}
STEMS = {"v1": "patch", "v2": "conv"}
DOWNSAMPLES = {"v1": "merge", "v2": "conv2", "v3": "conv3"}
INITS = {"v0": "mamba", "v1": "random", "v2": "zero"}
PATHS = {"v051d": "unidirectional", "v052d": "bidirectional", "v052dc": "cascade"}
CROSS_SCANS = ("v01", "v02", "v03", "v04", "v05", "v2", "v3", "m0")  # one function, by different kernels
OUT_NORMS = {
    "_onnone": "none",
    "_ondwconv3": "conv",
    "_oncnorm": "layer conv",
    "_onsoftmax": "softmax",
    "_onsigmoid": "sigmoid",
}
ACTIVATIONS = {nn.SiLU: "silu", nn.GELU: "gelu", nn.ReLU: "relu", nn.Sigmoid: "sigmoid"}


def _one_of(name: str, value: str, table: dict[str, str]) -> str:
    if value not in table:
        raise ValueError(f"{name}: expected one of {tuple(table)}, got {value!r}")
    return table[value]


def _activation(name: str, act: Any) -> str:
    """A class, as their layers take, or a name, as their models do."""
    found = ACTIVATIONS.get(act, act)
    if found not in ACTIVATIONS.values():
        raise ValueError(f"{name}: expected SiLU, GELU, ReLU or Sigmoid, got {act!r}")
    return found


def _strip(forward_type: str, postfix: str) -> tuple[bool, str]:
    return forward_type.endswith(postfix), forward_type.removesuffix(postfix)


def _scan_options(forward_type: str) -> dict[str, Any]:
    """A ``forward_type``: a core, then ``_on...``, ``_nozact``, ``_noz``, ``_oact``, ``_no32``, in this order."""
    if forward_type in ("v0", "v0seq"):
        return dict(gate="act", paths="cross")
    _, core = _strip(forward_type, "_no32")
    out_act, core = _strip(core, "_oact")
    no_gate, core = _strip(core, "_noz")
    linear_gate, core = _strip(core, "_nozact")
    out_norm = "layer"
    for postfix, kind in OUT_NORMS.items():
        found, core = _strip(core, postfix)
        out_norm = kind if found else out_norm
    if core not in PATHS and core not in CROSS_SCANS:
        known = (*CROSS_SCANS, *PATHS)
        raise ValueError(
            f"forward_type: expected one of v0, v0seq, {known} and postfixes, got {forward_type!r}"
        )
    gate = "none" if no_gate else "linear" if linear_gate else "act"
    paths = PATHS.get(core, "cross")
    return dict(gate=gate, paths=paths, out_norm=out_norm, out_act=out_act, ssd=core == "m0")


def _ssm_options(
    d_state: int,
    ratio: float,
    dt_rank: int | str,
    act: Any,
    conv: int,
    conv_bias: bool,
    init: str,
    forward_type: str,
) -> dict[str, Any]:
    """Their options of SS2D -> ours, without dropout and step sizes. v0 knows only the first three."""
    given: dict[str, Any] = dict(
        d_state=d_state,
        ratio=ratio,
        dt_rank=None if dt_rank == "auto" else dt_rank,
        **_scan_options(forward_type),
    )
    if forward_type in ("v0", "v0seq"):
        return dict(given, act="silu", d_conv=3, conv_bias=True, init="mamba")
    act, init = _activation("act_layer", act), _one_of("ssm_init", init, INITS)
    return dict(given, act=act, d_conv=conv, conv_bias=conv_bias, init=init)


class SS2D(layers.SS2D):
    """SS2D by the authors' arguments.

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
        initialize: str = "v0",
        forward_type: str = "v2",
        channel_first: bool = False,
        **options: Any,
    ) -> None:
        if unknown := sorted(set(options) - {"device", "dtype"}):
            raise TypeError(f"unexpected keyword arguments {unknown}")
        super().__init__(
            d_model,
            **_ssm_options(
                d_state, ssm_ratio, dt_rank, act_layer, d_conv, conv_bias, initialize, forward_type
            ),
            proj_bias=bias and forward_type not in ("v0", "v0seq"), drop_rate=dropout, dt_min=dt_min, dt_max=dt_max,
            dt_floor=dt_init_floor, dt_scale=dt_scale, dt_init=dt_init, **options,
        )  # fmt: skip
        self.channel_first = channel_first
        self.d_model, self.d_state, self.d_inner = d_model, d_state, self.ssm.dim
        self.dt_rank, self.k_group = self.ssm.dt_rank, self.ssm.directions
        accept_official_names(self)

    def forward(self, x: Tensor, **ignored: Any) -> Tensor:
        """Map ``(B, H, W, C)``, or ``(B, C, H, W)`` if ``channel_first``, to the same."""
        if not self.channel_first:
            return super().forward(x)
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class VSSBlock(layers.VSSBlock):
    """A block by the authors' arguments.

    ``norm_layer`` is ``nn.LayerNorm``, a ``LayerNorm2d``, or ``nn.BatchNorm2d``.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    def __init__(
        self,
        hidden_dim: int = 0,
        drop_path: float = 0,
        norm_layer: Any = nn.LayerNorm,
        channel_first: bool = False,
        ssm_d_state: int = 16,
        ssm_ratio: float = 2.0,
        ssm_dt_rank: int | str = "auto",
        ssm_act_layer: Any = nn.SiLU,
        ssm_conv: int = 3,
        ssm_conv_bias: bool = True,
        ssm_drop_rate: float = 0.0,
        ssm_init: str = "v0",
        forward_type: str = "v2",
        mlp_ratio: float = 4.0,
        mlp_act_layer: Any = nn.GELU,
        mlp_drop_rate: float = 0.0,
        gmlp: bool = False,
        use_checkpoint: bool = False,
        post_norm: bool = False,
        **options: Any,
    ) -> None:
        if unknown := sorted(set(options) - {"device", "dtype"}):
            raise TypeError(f"unexpected keyword arguments {unknown}")
        kind = getattr(norm_layer, "__name__", str(norm_layer))
        super().__init__(
            hidden_dim,
            **_ssm_options(
                ssm_d_state, ssm_ratio, ssm_dt_rank, ssm_act_layer, ssm_conv, ssm_conv_bias, ssm_init, forward_type
            ),
            ssm_drop_rate=ssm_drop_rate, mlp_ratio=mlp_ratio, mlp_act=_activation("mlp_act_layer", mlp_act_layer),
            mlp_gated=gmlp, mlp_drop_rate=mlp_drop_rate, post_norm=post_norm, drop_path=drop_path,
            norm=_one_of("norm_layer", kind, dict(LayerNorm="layer", LayerNorm2d="layer", BatchNorm2d="batch")),
            channels_last=not channel_first, **options,
        )  # fmt: skip
        self.use_checkpoint = use_checkpoint
        accept_official_names(self)

    @property
    def op(self) -> nn.Module | None:
        """The SS2D, under their name."""
        return self.ss2d

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(B, H, W, C)``, or ``(B, C, H, W)`` if ``channel_first``, to the same."""
        return checkpoint(super().forward, input) if self.use_checkpoint else super().forward(input)


def _model_options(
    patch_size: int = 4,
    in_chans: int = 3,
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
    posembed: bool = False,
    imgsize: int = 224,
    device: Any = None,
    dtype: Any = None,
) -> dict[str, Any]:
    """The authors' keyword arguments that classifier and backbone share -> `VMamba`'s."""
    ssm = _ssm_options(
        ssm_d_state,
        ssm_ratio,
        ssm_dt_rank,
        ssm_act_layer.lower(),
        ssm_conv,
        ssm_conv_bias,
        ssm_init,
        forward_type,
    )
    return dict(
        img_size=imgsize, patch_size=patch_size, in_chans=in_chans, depths=depths, dims=dims, **ssm,
        mlp_ratio=mlp_ratio, mlp_act=_activation("mlp_act_layer", mlp_act_layer.lower()), mlp_gated=gmlp,
        norm=_one_of("norm_layer", norm_layer.lower(), NORMS), stem_norm=patch_norm,
        stem=_one_of("patchembed_version", patchembed_version, STEMS), pos_embed=posembed,
        downsample=_one_of("downsample_version", downsample_version, DOWNSAMPLES), ssm_drop_rate=ssm_drop_rate,
        mlp_drop_rate=mlp_drop_rate, drop_path_rate=drop_path_rate, device=device, dtype=dtype,
    )  # fmt: skip


class VSSM(VMamba):
    """VMamba by the authors' arguments, positions and defaults.

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
        use_checkpoint: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            num_classes=num_classes, **_model_options(patch_size, in_chans, depths, dims, **options)
        )
        _finish(self, use_checkpoint, **options)


class Backbone_VSSM(VMambaDense):
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
        num_classes: int = 1000,
        use_checkpoint: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(out_indices, **_model_options(norm_layer=norm_layer, **options))
        _finish(self, use_checkpoint, norm_layer=norm_layer)
        if pretrained is not None:
            self.load_classifier(pretrained)

    def forward(self, x: Tensor) -> list[Tensor] | Tensor:  # type: ignore[override]
        """Images ``(B, C, H, W)`` -> maps; without ``out_indices`` the last stage's, laid out as ``norm_layer`` is."""
        if self.out_indices:
            return super().forward(x)
        maps = self.stages(self._embed(x))
        return maps.permute(0, 3, 1, 2) if self.channel_first else maps


def _finish(model: Any, use_checkpoint: bool, norm_layer: str = "LN", **options: Any) -> None:
    """Set the attributes and accept the names of the authors."""
    model.channel_first = norm_layer.lower() in ("bn", "ln2d")
    model.dims = [info["num_chs"] for info in model.feature_info]
    model.num_layers = len(model.dims)
    model.set_grad_checkpointing(use_checkpoint)
    accept_official_names(model)


def _published(function: str) -> Callable[..., VSSM]:
    name, fixed, rate = PUBLISHED[function]
    facts = VMAMBA_FACTS[name]
    sizes = {key: facts.args[key] for key in ("depths", "dims")}

    def build(pretrained: bool = False, channel_first: bool = True, **options: Any) -> VSSM:
        given = dict(norm_layer="ln2d" if channel_first else "ln", drop_path_rate=rate, **sizes)
        model = VSSM(**{**given, **fixed, **options})
        if pretrained:
            source = timm.create_model(
                facts.tagged_name, pretrained=True, num_classes=model.num_classes, in_chans=model.in_chans
            )
            model.load_state_dict(source.state_dict())
        return model

    build.__name__ = build.__qualname__ = function
    build.__doc__ = f"`{facts.tagged_name}` under the authors' name."
    return build


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
