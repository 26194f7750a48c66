"""MobileMamba's block and downsampling: depthwise convolutions and MLPs around the mixer (He et al. 2025)."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, SqueezeExcite
from torch import Tensor, nn

from .checks import check_map, check_rates, check_sizes
from .efficient import MapBlock
from .fused import ConvNorm, LinearNorm
from .linear import apply_linear
from .wavelet import WaveletMixer


class NormedMlp(nn.Module):
    """Linear, ReLU, Linear on the last axis, with batch norms after both linear layers.

    Args:
        dim: Width.
        hidden: Width between the two.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.fc1 = LinearNorm(dim, hidden, device, dtype)
        self.fc2 = LinearNorm(hidden, dim, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C) -> (..., C)``."""
        if torch.jit.is_scripting():
            return self.fc2(F.relu(self.fc1(x)))
        return apply_linear(self.fc2, F.relu(apply_linear(self.fc1, x)))


def _depthwise(dim: int, stride: int = 1, **dd: Any) -> MapBlock:
    return MapBlock(ConvNorm(dim, dim, 3, stride, groups=dim, **dd))


class MobileBlock(nn.Module):
    """``x + f(x)``, where f adds to its input, one after the other, a depthwise convolution, an MLP, the mixer, and
    another convolution and MLP.

    Args:
        dim: Channels C of the map.
        mlp_ratio: Hidden width of the MLPs in multiples of ``dim``.
        drop_path: Rate at which f is dropped.
        **options: As `WaveletMixer` takes them.

    Raises:
        ValueError: as `WaveletMixer`, or ``drop_path`` is not in 0..1.
    """

    def __init__(
        self,
        dim: int,
        mlp_ratio: int = 2,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(dim=dim, mlp_ratio=mlp_ratio)
        check_rates(drop_path=drop_path)
        self.dw0 = _depthwise(dim, **dd)
        self.mlp0 = NormedMlp(dim, mlp_ratio * dim, **dd)
        self.mixer = WaveletMixer(dim, **options, **dd)
        self.dw1 = _depthwise(dim, **dd)
        self.mlp1 = NormedMlp(dim, mlp_ratio * dim, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, H, W, C)``."""
        y = x + self.dw0(x)
        y = y + self.mlp0(y)
        y = y + self.mixer(y)
        y = y + self.dw1(y)
        y = y + self.mlp1(y)
        return x + self.drop_path(y)


class MobileDownsample(nn.Module):
    """A map to one of half the height and width, rounded up, between convolutions and MLPs that are added.

    Linear layer to four times the channels, depthwise convolution with stride 2, both with batch norm and ReLU,
    squeeze and excitation (Hu et al. 2018), linear layer with batch norm.

    Args:
        dim, out_dim: Channels before and after.
        mlp_ratio: Hidden width of the MLPs in multiples of the channels.

    Raises:
        ValueError: a size is not positive.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        mlp_ratio: int = 2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(dim=dim, out_dim=out_dim, mlp_ratio=mlp_ratio)
        self.dim, hidden = dim, 4 * dim
        self.dw0 = _depthwise(dim, **dd)
        self.mlp0 = NormedMlp(dim, mlp_ratio * dim, **dd)
        self.conv1 = LinearNorm(dim, hidden, **dd)
        self.conv2 = _depthwise(hidden, 2, **dd)
        self.se = MapBlock(SqueezeExcite(hidden, rd_ratio=0.25, **dd))
        self.conv3 = LinearNorm(hidden, out_dim, **dd)
        self.dw1 = _depthwise(out_dim, **dd)
        self.mlp1 = NormedMlp(out_dim, mlp_ratio * out_dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), D)``.

        Raises:
            ValueError: ``x`` is not such a map, or has no positions.
        """
        x = check_map(x, self.dim, 3, 1)
        x = x + self.dw0(x)
        x = self.merge(x + self.mlp0(x))
        x = x + self.dw1(x)
        return x + self.mlp1(x)

    def merge(self, x: Tensor) -> Tensor:
        """The step to the other resolution alone."""
        if torch.jit.is_scripting():
            return self.conv3(self.se(F.relu(self.conv2(F.relu(self.conv1(x))))))
        x = self.se(F.relu(self.conv2(F.relu(apply_linear(self.conv1, x)))))
        return apply_linear(self.conv3, x)
