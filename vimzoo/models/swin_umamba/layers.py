"""Convolutional blocks of Swin-UMamba, as MONAI's UNETR has them, and the encoder that it shares with its variant D."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vimzoo.layers import MapStem

from ..vmamba.first_release import stages

__all__ = ["NORMS", "ConvBlock", "UpBlock", "VSSEncoder", "init_convs"]

NORMS = ("instance", "batch")
SLOPE = 0.01  # of the leaky ReLU


class ConvBlock(nn.Module):
    """Two 3 x 3 convolutions with norms and leaky ReLU, and a shortcut around them.

    Args:
        dim, out_dim: Channels before and after; if they differ, the shortcut is a 1 x 1 convolution with a norm.
        norm: ``"instance"`` (without parameters) or ``"batch"``.
        residual: Whether there is a shortcut.
    """

    def __init__(self, dim: int, out_dim: int, norm: str = "instance", residual: bool = True) -> None:
        super().__init__()
        kind = nn.InstanceNorm2d if norm == "instance" else nn.BatchNorm2d
        self.conv1 = nn.Conv2d(dim, out_dim, 3, padding=1, bias=False)
        self.norm1 = kind(out_dim)
        self.conv2 = nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=False)
        self.norm2 = kind(out_dim)
        self.act = nn.LeakyReLU(SLOPE)
        self.residual = residual
        self.shortcut: nn.Module = nn.Identity()
        self.shortcut_norm: nn.Module = nn.Identity()
        if residual and dim != out_dim:
            self.shortcut = nn.Conv2d(dim, out_dim, 1, bias=False)
            self.shortcut_norm = kind(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, H, W)."""
        y = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))
        if self.residual:
            y = y + self.shortcut_norm(self.shortcut(x))
        return self.act(y)


class UpBlock(nn.Module):
    """A step to twice the height and width, joined with a map of that size.

    Args:
        dim, out_dim: Channels before and after; the other map has ``out_dim``, too.
        norm, residual: As in `ConvBlock`.
    """

    def __init__(self, dim: int, out_dim: int, norm: str = "instance", residual: bool = True) -> None:
        super().__init__()
        self.expand = nn.ConvTranspose2d(dim, out_dim, 2, 2, bias=False)
        self.block = ConvBlock(2 * out_dim, out_dim, norm, residual)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, C, H, W) and (B, D, 2 H, 2 W) -> (B, D, 2 H, 2 W)."""
        return self.block(torch.cat([self.expand(x), skip], 1))


class VSSEncoder(nn.Module):
    """VMamba's first release without its classifier: the maps of all stages.

    Args:
        in_chans: Channels of the images or maps.
        patch_size: Pixels per position of the first map.
        depths, dims: Blocks and channels of each stage.
        d_state: States per channel.
        stem_norm: Whether the stem has a norm.
        drop_path_rate: Stochastic depth of the last block.
    """

    def __init__(
        self,
        in_chans: int,
        patch_size: int,
        depths: Sequence[int],
        dims: Sequence[int],
        d_state: int = 16,
        stem_norm: bool = True,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch_embed = MapStem(in_chans, dims[0], patch_size, "patch", "layer" if stem_norm else "none")
        self.stages = stages(dims, depths, d_state, drop_path_rate)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> the map (B, D, h, w) that each stage ends with, the finest first."""
        x = self.patch_embed(x)
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x.permute(0, 3, 1, 2))
        return maps


def init_convs(module: nn.Module) -> None:
    """Convolutions as nnU-Net begins with them: He's normal distribution for the leaky ReLU, no bias."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(part.weight, a=SLOPE)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
