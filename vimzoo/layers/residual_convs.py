"""The residual block of U-nets for medical pictures: two convolutions with instance norms (Isensee et al. 2021)."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from .checks import check_rates, check_sizes
from .norm import InstanceNorm2d, InstanceNorm3d

CONVS: dict[int, type[nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
NORMS: dict[int, type[InstanceNorm2d | InstanceNorm3d]] = {2: InstanceNorm2d, 3: InstanceNorm3d}


def check_axes(axes: int) -> None:
    """Check the number of axes of a grid for which torch has convolutions here.

    Raises:
        ValueError: it is neither 2, for maps, nor 3, for volumes.
    """
    if axes not in CONVS:
        raise ValueError(f"axes: expected 2 for maps or 3 for volumes, got {axes!r}")


class ResidualConvs(nn.Module):
    """Two convolutions, each with an instance norm, and a LeakyReLU after the first and after the sum with the input.

    Args:
        dim, out_dim: Channels before and after.
        axes: 2 for maps ``(B, C, H, W)``, 3 for volumes ``(B, C, D, H, W)``.
        kernel_size: Of both convolutions, odd, one number or one per axis.
        stride: Of the first.
        bias: Whether convolutions have a bias.
        affine: Whether norms have weights.
        shortcut: ``"none"`` adds the input itself, ``"conv"`` a 1 x 1 convolution of it, ``"norm"`` one with a norm.
        drop_path: Probability of stochastic depth, with which the convolutions are left out for a sample.

    Raises:
        ValueError: a size is not positive, the probability is outside 0..1, ``axes`` or ``shortcut`` is unknown, or the
            input cannot be added as it is.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        axes: int = 2,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        bias: bool = True,
        affine: bool = True,
        shortcut: str = "conv",
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, out_dim=out_dim)
        check_rates(drop_path=drop_path)
        check_axes(axes)
        if shortcut not in ("none", "conv", "norm"):
            raise ValueError(f"shortcut: expected 'none', 'conv' or 'norm', got {shortcut!r}")
        sizes, strides = per_axis(kernel_size, axes), per_axis(stride, axes)
        if shortcut == "none" and (dim != out_dim or max(strides) > 1):
            raise ValueError(
                f"shortcut: expected 'conv' or 'norm' from {dim} to {out_dim} channels, stride {stride}"
            )
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        conv, norm = CONVS[axes], NORMS[axes]
        pads: Any = tuple(size // 2 for size in sizes)
        self.conv1 = conv(dim, out_dim, sizes, strides, pads, bias=bias, **dd)
        self.norm1 = norm(out_dim, affine=affine, **dd)
        self.conv2 = conv(out_dim, out_dim, sizes, 1, pads, bias=bias, **dd)
        self.norm2 = norm(out_dim, affine=affine, **dd)
        self.shortcut = None if shortcut == "none" else conv(dim, out_dim, 1, strides, bias=bias, **dd)
        self.shortcut_norm = norm(out_dim, affine=affine, **dd) if shortcut == "norm" else None
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.act = nn.LeakyReLU(0.01)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, ...) -> (B, D, ...)``."""
        y = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        if self.shortcut_norm is not None:
            x = self.shortcut_norm(x)
        return self.act(self.drop_path(y) + x)


def per_axis(value: int | Sequence[int], axes: int) -> Any:
    """One number for each axis.

    Raises:
        ValueError: there is another number of them.
    """
    values = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(values) != axes:
        raise ValueError(f"kernel_size, stride: expected one number or {axes} of them, got {value!r}")
    return values
