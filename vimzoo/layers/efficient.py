"""EfficientVMamba's mixer: a scan of four quarters of the map beside a convolution (Pei et al. 2024, section 3.3)."""

from typing import Any

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn

from .channel_gate import ChannelGate
from .checks import check_map
from .plain import apply_conv
from .ss2d import SS2D
from .vss_block import VSSBlock


@register_notrace_module  # the orders of tokens follow from sizes, which FX cannot follow
class AtrousSS2D(SS2D):
    """`SS2D` and a convolutional branch of the same input, added after one `ChannelGate` for both.

    Args:
        dim: Channels C of the map, at least 8.
        *args, **options: As `SS2D` takes them; the authors' paths are ``paths="atrous"``.

    Raises:
        ValueError: an option has an unknown value, or ``dim`` is less than 8.
    """

    def __init__(self, dim: int, *args: Any, **options: Any) -> None:
        super().__init__(dim, *args, **options)
        dd: dict[str, Any] = {key: options.get(key) for key in ("device", "dtype")}
        self.branch = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd),
            nn.BatchNorm2d(dim, **dd),
            nn.GELU(),
            nn.Conv2d(dim, dim, 1, **dd),
        )
        self.channel_gate = ChannelGate(dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C) -> (B, H, W, C)``.

        Raises:
            ValueError: ``x`` is not such a map, or has no positions.
        """
        x = check_map(x, self.dim, 3, 1)
        scanned = self._mixed(x).flatten(1, 2)
        convolved = self.branch(x.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        return (self.channel_gate(scanned) + self.channel_gate(convolved)).reshape(x.shape)


class AtrousBlock(VSSBlock):
    """`VSSBlock` with an `AtrousSS2D`."""

    scan_class = AtrousSS2D


class MapBlock(nn.Module):
    """A block of maps with channels first on maps with channels last.

    Args:
        block: From ``(B, C, H, W)`` to the same.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, H, W, C)``."""
        if torch.jit.is_scripting():
            return self.block(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return apply_conv(self.block, x)
