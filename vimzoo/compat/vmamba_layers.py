"""The VMamba authors' layers: ours, with their arguments, positions and defaults."""

from typing import Any

import torch.nn.functional as F
from timm.models import checkpoint
from torch import Tensor, nn

from vimzoo import layers
from vimzoo.layers.maps import Permute

from .attributes import Alias, Computed, OfficialAttributes, View, refuse_unknown
from .official import accept_official_names
from .vmamba_options import activation, one_of, ssm_options

__all__ = ["SS2D", "LayerNorm2d", "Linear2d", "Permute", "VSSBlock"]


class Linear2d(nn.Linear):
    """A linear layer of maps ``(B, C, H, W)``."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, D, H, W)``."""
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of maps ``(B, C, H, W)``."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)``, normalised."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ScanNames(OfficialAttributes):
    """The authors' names of the parts of an SS2D."""

    conv2d, dropout = Alias("conv"), Alias("drop")
    x_proj_weight, dt_projs_weight, dt_projs_bias = (
        Alias("ssm.x_proj"),
        Alias("ssm.dt_proj"),
        Alias("ssm.dt_bias"),
    )
    A_logs, Ds = View("ssm.A_log"), View("ssm.D")


class _Scan(ScanNames, layers.SS2D):
    def _get_name(self) -> str:
        return "SS2D"


class SS2D(ScanNames, layers.SS2D):
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
        initialize: str = "v0",
        forward_type: str = "v2",
        channel_first: bool = False,
        **kwargs: Any,
    ) -> None:
        refuse_unknown("SS2D", kwargs, ("device", "dtype"))
        super().__init__(
            d_model,
            **ssm_options(
                d_state, ssm_ratio, dt_rank, act_layer, d_conv, conv_bias, initialize, forward_type
            ),
            proj_bias=bias and forward_type not in ("v0", "v0seq"), drop_rate=dropout, dt_min=dt_min, dt_max=dt_max,
            dt_floor=dt_init_floor, dt_scale=dt_scale, dt_init=dt_init, **kwargs,
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


def refuse_other_scan(kind: type[nn.Module]) -> None:
    """Refuse a class in place of `SS2D`.

    Raises:
        ValueError: ``kind`` is another.
    """
    if not (isinstance(kind, type) and issubclass(kind, layers.SS2D)):
        raise ValueError(
            f"_SS2D: expected vimzoo.compat.vmamba.SS2D, other scans are not offered, got {kind!r}"
        )


NORM_CLASSES = dict(LayerNorm="layer", LayerNorm2d="layer", BatchNorm2d="batch")


class OfficialBlock(OfficialAttributes, layers.VSSBlock):
    """A block with the authors' names of its parts."""

    scan_class: type[layers.SS2D] = _Scan
    op = Alias("ss2d")
    norm = Alias("norm1")

    @Computed
    def ssm_branch(self) -> bool:
        """Whether there is a scan."""
        return self.ss2d is not None

    @Computed
    def mlp_branch(self) -> bool:
        """Whether there is an MLP."""
        return self.mlp is not None

    def _get_name(self) -> str:
        return "VSSBlock"


class VSSBlock(OfficialBlock):
    """A block with the authors' arguments.

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
        ssm_drop_rate: float = 0,
        ssm_init: str = "v0",
        forward_type: str = "v2",
        mlp_ratio: float = 4.0,
        mlp_act_layer: Any = nn.GELU,
        mlp_drop_rate: float = 0.0,
        gmlp: bool = False,
        use_checkpoint: bool = False,
        post_norm: bool = False,
        _SS2D: type[nn.Module] = SS2D,
        **kwargs: Any,
    ) -> None:
        refuse_unknown("VSSBlock", kwargs, ("device", "dtype"))
        refuse_other_scan(_SS2D)
        kind = getattr(norm_layer, "__name__", str(norm_layer))
        super().__init__(
            hidden_dim,
            **ssm_options(
                ssm_d_state, ssm_ratio, ssm_dt_rank, ssm_act_layer, ssm_conv, ssm_conv_bias, ssm_init, forward_type
            ),
            ssm_drop_rate=float(ssm_drop_rate), mlp_ratio=mlp_ratio, mlp_act=activation("mlp_act_layer", mlp_act_layer),
            mlp_gated=gmlp, mlp_drop_rate=mlp_drop_rate, post_norm=post_norm, drop_path=drop_path,
            norm=one_of("norm_layer", kind, NORM_CLASSES),
            channels_last=not channel_first, **kwargs,
        )  # fmt: skip
        self.use_checkpoint = use_checkpoint
        accept_official_names(self)

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(B, H, W, C)``, or ``(B, C, H, W)`` if ``channel_first``, to the same."""
        return checkpoint(super().forward, input) if self.use_checkpoint else super().forward(input)
