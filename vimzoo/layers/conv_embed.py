"""The convolutions between stages that MILA (Han et al. 2024) and Spatial-Mamba (Xiao et al. 2024) share."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vimzoo.ops import inference, linear

from .checks import check_map, check_sizes
from .images import check_image_sizes, warn_unless_finite
from .linear import functions_are_replaced, is_plain
from .plain import apply_conv

EXPANSION = 4
"""Channels inside the stem and a downsampling, in multiples of those that it returns."""


class ConvNorm(nn.Module):
    """A convolution without bias, batch norm, and ReLU.

    Args:
        in_chans, out_chans, size, stride: Of the convolution, which pads by half its size.
        relu: Whether ReLU follows.
        bias: Whether the convolution has a bias.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        size: int = 3,
        stride: int = 1,
        relu: bool = True,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.relu = relu
        self.conv = nn.Conv2d(in_chans, out_chans, size, stride, size // 2, bias=bias, **dd)
        self.norm = nn.BatchNorm2d(out_chans, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, I, H, W) -> (B, O, H', W')``."""
        if not torch.jit.is_scripting():
            y = self.in_one_pass(x)
            if y is not None:
                return y
        x = self.norm(self.conv(x))
        return F.relu(x) if self.relu else x

    @torch.jit.ignore
    def in_one_pass(self, x: Tensor) -> Tensor | None:
        """In inference the convolution with the norm's scale in its weight; ``None`` where the parts have to run."""
        conv: Any = self.conv
        norm: Any = self.norm
        if (
            not is_plain(conv, nn.Conv2d)
            or not is_plain(norm, nn.BatchNorm2d)
            or norm.training
            or not inference.can_infer(
                x, conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var
            )
            or functions_are_replaced()
        ):
            return None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - scale * norm.running_mean
        if conv.bias is not None:
            shift = shift + scale * conv.bias
        weight = conv.weight * scale[:, None, None, None]
        if conv.kernel_size == (1, 1):
            y = linear(x.permute(0, 2, 3, 1), weight.flatten(1), shift).permute(0, 3, 1, 2)
        else:
            y = F.conv2d(x, weight, shift, conv.stride, conv.padding)
        return y.relu_() if self.relu else y


class ResidualStem(nn.Module):
    """Images to a map with channels last, a quarter of their size.

    A 3 x 3 convolution of stride 2, two of stride 1 with a residual, one of stride 2 to four times the width, and a
    1 x 1 one to the width.

    Sizes that 4 does not divide are rounded up.

    Args:
        in_chans: Channels of the images.
        dim: Channels C of the map, at least 2.

    Raises:
        ValueError: a size is not positive, or ``dim`` is 1.
    """

    patch_size = 4

    def __init__(
        self,
        in_chans: int = 3,
        dim: int = 64,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(in_chans=in_chans, dim=dim)
        if dim < 2:
            raise ValueError(f"dim: expected at least 2 channels, got {dim}")
        half = dim // 2
        self.in_chans = in_chans
        self.conv1 = ConvNorm(in_chans, half, stride=2, **dd)
        self.conv2 = nn.Sequential(ConvNorm(half, half, **dd), ConvNorm(half, half, relu=False, **dd))
        self.conv3 = nn.Sequential(
            ConvNorm(half, EXPANSION * dim, stride=2, **dd),
            ConvNorm(EXPANSION * dim, dim, 1, relu=False, **dd),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` -> map ``(B, h, w, D)``.

        Raises:
            ValueError: images without four axes, with other channels, or without pixels.
        """
        x = check_image_sizes(x, self.in_chans, (1, 1))
        warn_unless_finite(x)
        x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # channels last, in words that vmap knows
        x = self.conv1(x)
        return self.conv3(x + self.conv2(x)).permute(0, 2, 3, 1)


class ExpandingDownsample(nn.Module):
    """A map to one of half the height and width, rounded up.

    A 1 x 1 convolution and ReLU, a depthwise 3 x 3 one of stride 2 and ReLU, a 1 x 1 one and batch norm.

    Args:
        dim, out_dim: Channels before and after; in between there are four times the latter.

    Raises:
        ValueError: a size is not positive.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(dim=dim, out_dim=out_dim)
        self.dim = dim
        hidden = EXPANSION * out_dim
        self.expand = nn.Conv2d(dim, hidden, 1, **dd)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, 2, 1, groups=hidden, **dd)
        self.reduce = ConvNorm(hidden, out_dim, 1, relu=False, bias=True, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, H', W', D)``.

        Raises:
            ValueError: ``x`` is not such a map, or has no positions.
        """
        x = check_map(x, self.dim, 3, 1)
        if torch.jit.is_scripting():
            x = F.relu(self.expand(x.permute(0, 3, 1, 2)))
        else:
            x = F.relu(apply_conv(self.expand, x)).permute(0, 3, 1, 2)
        return self.reduce(F.relu(self.depthwise(x))).permute(0, 2, 3, 1)
