"""Building blocks of MambaIR (Guo et al. 2024, sections 3.3 and 3.4), on maps with channels last."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from .checks import check_double, check_map, check_rates, check_sizes
from .linear import is_plain
from .plain import add_scaled, apply_convs, apply_norm
from .ss2d import SS2D

CAB_FORMS = ("conv", "light", "light_mar2024", "light_feb2024")
SQUEEZE = 30
"""Of channel attention in every model, which needs as many channels."""


class ChannelAttention(nn.Module):
    """Scales every channel by a number in 0..1 that is computed from the channels' means (RCAN, Zhang et al. 2018).

    Args:
        dim: Channels C.
        squeeze: The means are squeezed to ``C // squeeze`` numbers.

    Raises:
        ValueError: there are fewer channels than ``squeeze``.
    """

    def __init__(
        self,
        dim: int,
        squeeze: int = 16,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if squeeze < 1 or dim < squeeze:
            raise ValueError(f"dim: expected at least {max(squeeze, 1)} channels to squeeze, got {dim}")
        self.dim = dim
        self.squeeze = nn.Conv2d(dim, dim // squeeze, 1, device=device, dtype=dtype)
        self.excite = nn.Conv2d(dim // squeeze, dim, 1, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C)``, scaled.

        Raises:
            ValueError: ``x`` is not such a map.
        """
        x = check_map(x, self.dim)
        means = x.mean((1, 2), keepdim=True).permute(0, 3, 1, 2)
        weights = self.excite(F.relu(self.squeeze(means)))
        return x * weights.sigmoid().permute(0, 2, 3, 1)


class CAB(nn.Module):
    """Channel-attention block: convolutions that restore local detail lost by the scan, then channel attention.

    Args:
        dim: Channels C.
        form: ``"conv"``: two 3 x 3 convolutions with ``C // compress`` channels between. The light models had three
            others: ``"light"`` (since October 2024) pointwise and depthwise convolutions, the last one dilated;
            ``"light_mar2024"`` as ``"conv"`` with a sixth of the channels; ``"light_feb2024"`` one depthwise
            convolution.
        compress: See ``"conv"``.
        squeeze: As in `ChannelAttention`.

    Raises:
        ValueError: ``form`` is unknown, or there are fewer channels than ``squeeze``.
    """

    def __init__(
        self,
        dim: int,
        form: str = "conv",
        compress: int = 3,
        squeeze: int = SQUEEZE,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, compress=compress)
        self.dim = dim
        self.compress = compress
        self.form = form
        self.convs = self._make_convs(form, device=device, dtype=dtype)
        self.attention = ChannelAttention(dim, squeeze, device=device, dtype=dtype)

    def _make_convs(self, form: str, **dd: Any) -> nn.Sequential:
        dim = self.dim
        if form == "light":
            inner = dim // 2
            return nn.Sequential(
                nn.Conv2d(dim, inner, 1, **dd),
                nn.Conv2d(inner, inner, 3, padding=1, groups=inner, **dd),
                nn.GELU(),
                nn.Conv2d(inner, dim, 1, **dd),
                nn.Conv2d(dim, dim, 3, padding=2, dilation=2, groups=dim, **dd),
            )
        if form == "light_feb2024":
            return nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd))
        if form not in CAB_FORMS:
            raise ValueError(f"form: expected one of {CAB_FORMS}, got {form!r}")
        inner = dim // (self.compress if form == "conv" else 6)
        return nn.Sequential(
            nn.Conv2d(dim, inner, 3, padding=1, **dd), nn.GELU(), nn.Conv2d(inner, dim, 3, padding=1, **dd)
        )

    def change_form(self, form: str) -> None:
        """Replace the convolutions by new ones of another form; call it before creating an optimiser."""
        weight = self.convs[0].weight
        self.convs = self._make_convs(form, device=weight.device, dtype=weight.dtype)
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C) -> (B, H, W, C)``.

        Raises:
            ValueError: ``x`` is not such a map, or has no positions.
        """
        x = check_map(x, self.dim, 3, 1)
        if torch.jit.is_scripting():
            return self.attention(self.convs(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return self.attention(apply_convs(self.convs, x))

    def extra_repr(self) -> str:
        return f"{self.dim}, form={self.form}"


def cab_form(first: Sequence[int], dim: int, compress: int = 3) -> str | None:
    """The form of a `CAB` of ``dim`` channels, read off the shape of its first convolution's weight.

    Returns:
        One of `CAB_FORMS`, or ``None`` if it does not belong to such a block.
    """
    shapes = {
        (dim // 2, dim, 1, 1): "light",
        (dim, 1, 3, 3): "light_feb2024",
        (dim // 6, dim, 3, 3): "light_mar2024",
        (dim // compress, dim, 3, 3): "conv",
    }
    return shapes.get(tuple(first))  # type: ignore[arg-type]


class RestorationBlock(nn.Module):
    """MambaIR's residual state-space block: ``x s1 + SS2D(norm(x))``, then ``x s2 + CAB(norm(x))``.

    Args:
        dim: Channels C.
        d_state, ratio: As in `SS2D` (the authors' ``d_state`` and ``expand``, in models ``mlp_ratio``).
        cab: Form of the `CAB`.
        norm1_eps: Epsilon of the first norm; the authors' bare block has 1e-6, their models have 1e-5.
        drop_rate: Dropout of the SS2D's output.
        drop_path: Rate at which the SS2D is left out; the CAB never is.
        ssm_args: Further keyword arguments of `SS2D`.

    Raises:
        ValueError: as `SS2D` and `CAB`, or ``drop_path`` is not in 0..1.
    """

    def __init__(
        self,
        dim: int,
        d_state: int = 16,
        ratio: float = 2.0,
        cab: str = "conv",
        norm1_eps: float = 1e-5,
        drop_rate: float = 0.0,
        drop_path: float = 0.0,
        ssm_args: Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        scan: dict[str, Any] = dict(conv_bias=True, gate="act", drop_rate=drop_rate)
        check_sizes(dim=dim)
        check_rates(drop_path=drop_path)
        self.dim = dim
        self.norm1 = nn.LayerNorm(dim, norm1_eps, **dd)
        self.ss2d = SS2D(dim, d_state, ratio, **{**scan, **(ssm_args or {})}, **dd)
        self.skip1 = nn.Parameter(torch.empty(dim, **dd))
        self.norm2 = nn.LayerNorm(dim, **dd)
        self.cab = CAB(dim, cab, **dd)
        self.skip2 = nn.Parameter(torch.empty(dim, **dd))
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Skips of 1; the parts initialise themselves."""
        nn.init.ones_(self.skip1)
        nn.init.ones_(self.skip2)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C) -> (B, H, W, C)``.

        Raises:
            ValueError: ``x`` is not such a map, or has no positions.
        """
        x = check_map(x, self.dim, 3, 1)
        check_double(x, self.norm1.weight)
        if torch.jit.is_scripting():
            x = x * self.skip1 + self.drop_path(self.ss2d(self.norm1(x)))
            return x * self.skip2 + self.cab(self.norm2(x))
        y = self.ss2d.in_one_call(x, self.norm1) if is_plain(self.ss2d, SS2D) else None
        y = self.ss2d(apply_norm(self.norm1, x)) if y is None else y
        x = add_scaled(self.drop_path(y), x, self.skip1)
        return add_scaled(self.cab(apply_norm(self.norm2, x)), x, self.skip2)
