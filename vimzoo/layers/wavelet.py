"""The Haar transform of maps, and MobileMamba's mixer around it (He et al. 2025, section 3.3)."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from vimzoo.ops.paths.path import BIDIRECTIONAL

from .checks import check_map, check_sizes
from .efficient import MapBlock
from .fused import ConvNorm, LinearNorm, ScaleNorm
from .linear import apply_linear
from .plain import apply_conv
from .ss2d import SS2D

STEP = 16
"""The number of channels that a scan reads is a multiple of this."""


def _combined(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The orthogonal transform of four numbers by Haar's filters; it is its own inverse."""
    sums, differences = (a + b) / 2, (a - b) / 2
    others, rest = (c + d) / 2, (c - d) / 2
    return sums + others, sums - others, differences + rest, differences - rest


def haar(x: Tensor) -> Tensor:
    """Four bands of a map: ``(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), C, 4)``.

    Of each 2 x 2 square the mean, the difference of its rows, that of its columns, and that of its diagonals, twice
    each. Odd sides are padded with zeros at the bottom and right.
    """
    x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    bands = _combined(x[:, :, 0, :, 0], x[:, :, 0, :, 1], x[:, :, 1, :, 0], x[:, :, 1, :, 1])
    return torch.stack(bands, -1)


def inverse_haar(bands: Tensor, height: int, width: int) -> Tensor:
    """The map of ``height x width`` that `haar` gives these bands of: ``(B, h, w, C, 4) -> (B, H, W, C)``."""
    a, b, c, d = _combined(bands[..., 0], bands[..., 1], bands[..., 2], bands[..., 3])
    x = torch.stack((torch.stack((a, b), 3), torch.stack((c, d), 3)), 2)
    x = x.reshape(x.shape[0], 2 * x.shape[1], 2 * x.shape[3], x.shape[5])
    return x[:, :height, :width]


def channel_split(dim: int, global_ratio: float, local_ratio: float) -> tuple[int, int, int]:
    """Channels that a mixer scans, convolves and passes on.

    The first is the multiple of 16 that is nearest to ``global_ratio * dim``, rounded up if two are; the second
    ``local_ratio * dim``, at most what is left.

    Raises:
        ValueError: a ratio is negative, or the first is more than ``dim``.
    """
    for name, ratio in {"global_ratio": global_ratio, "local_ratio": local_ratio}.items():
        if not ratio >= 0:
            raise ValueError(f"{name}: expected 0 or more, got {ratio!r}")
    scanned = (int(global_ratio * dim) + STEP // 2) // STEP * STEP
    if scanned > dim:
        raise ValueError(
            f"global_ratio: expected at most {dim} channels, rounded to a multiple of {STEP}, got {global_ratio} "
            f"for {scanned}"
        )
    local = min(int(local_ratio * dim), dim - scanned)
    return scanned, local, dim - scanned - local


class NormedSS2D(SS2D):
    """`SS2D` along rows and back, whose projections end with batch norms.

    Args:
        dim: Channels C of the map.
        ratio: Inner width in multiples of ``dim``.
        d_state: States N per channel.
    """

    def __init__(
        self,
        dim: int,
        ratio: float = 2.0,
        d_state: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(
            dim, d_state, ratio, conv_bias=True, gate="act", paths=BIDIRECTIONAL, init="zero", **dd
        )

    def new_projection(self, inputs: int, outputs: int, bias: bool, **dd: Any) -> nn.Module:
        """A linear layer and a batch norm."""
        return LinearNorm(inputs, outputs, **dd)


class WaveletSS2D(nn.Module):
    """A scan, and a depthwise convolution of the bands of the Haar transform, each scaled by channel.

    Args:
        dim: Channels C of the map.
        kernel_size: Of the convolution, odd.
        ratio, d_state: As in `NormedSS2D`.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 3,
        ratio: float = 2.0,
        d_state: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.scan = NormedSS2D(dim, ratio, d_state, **dd)
        self.base_scale = nn.Parameter(torch.empty(1, dim, 1, 1, **dd))
        self.conv = nn.Conv2d(
            4 * dim, 4 * dim, kernel_size, padding=kernel_size // 2, groups=4 * dim, bias=False, **dd
        )
        self.wavelet_scale = nn.Parameter(torch.empty(1, 4 * dim, 1, 1, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Factors of 1 and 0.1; the parts initialise themselves."""
        nn.init.ones_(self.base_scale)
        nn.init.constant_(self.wavelet_scale, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C) -> (B, H, W, C)``."""
        bands = haar(x).flatten(3)
        if torch.jit.is_scripting():
            bands = self.conv(bands.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        else:
            bands = apply_conv(self.conv, bands)
        bands = (bands * self.wavelet_scale.flatten()).unflatten(-1, (-1, 4))
        return self.scan(x) * self.base_scale.flatten() + inverse_haar(bands, x.shape[1], x.shape[2])


class LocalConv(nn.Module):
    """A depthwise convolution with batch norm, ReLU, and a factor per channel with batch norm.

    Args:
        dim: Channels C.
        kernel_size: Of the convolution, odd.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv = MapBlock(ConvNorm(dim, dim, kernel_size, groups=dim, **dd))
        self.scale = ScaleNorm(dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, H, W, C)``."""
        return self.scale(F.relu(self.conv(x)))


@register_notrace_module  # sizes decide, which FX cannot follow
class WaveletMixer(nn.Module):
    """Some channels are scanned, some convolved, the others passed on; ReLU and a linear layer join them.

    Args:
        dim: Channels C of the map.
        kernel_size: Of the convolutions, odd.
        global_ratio, local_ratio: Shares of the channels, as `channel_split` takes them.
        ratio, d_state: As in `NormedSS2D`.

    Raises:
        ValueError: a size is not positive, ``kernel_size`` is even, or as `channel_split`.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 3,
        global_ratio: float = 0.8,
        local_ratio: float = 0.2,
        ratio: float = 2.0,
        d_state: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(dim=dim, kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: expected an odd size, got {kernel_size}")
        self.dim = dim
        self.split = list(channel_split(dim, global_ratio, local_ratio))
        scanned, local, _ = self.split
        self.global_op = WaveletSS2D(scanned, kernel_size, ratio, d_state, **dd) if scanned else None
        self.local_op = LocalConv(local, kernel_size, **dd) if local else None
        self.proj = LinearNorm(dim, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C) -> (B, H, W, C)``.

        Raises:
            ValueError: ``x`` is not such a map, or has no positions.
        """
        x = check_map(x, self.dim, 3, 1)
        scanned, local, rest = x.split(self.split, dim=-1)
        if self.global_op is not None:
            scanned = self.global_op(scanned)
        if self.local_op is not None:
            local = self.local_op(local)
        x = F.relu(torch.cat((scanned, local, rest), -1))
        return self.proj(x) if torch.jit.is_scripting() else apply_linear(self.proj, x)

    def extra_repr(self) -> str:
        return f"{self.dim}, split={self.split}"
