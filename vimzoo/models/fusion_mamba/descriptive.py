"""Learnable descriptive convolution: a 3 x 3 convolution with a learned difference from the centre.

`Learnable Descriptive Convolutional Network for Face Anti-Spoofing`, Huang et al., BMVC 2022.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import EcaModule
from torch import Tensor, nn

from vimzoo.layers.checks import check_sizes

__all__ = ["DescriptiveConv", "MapGate"]


class DescriptiveConv(nn.Module):
    """3 x 3 convolution of a map, whose weight W is multiplied by ``M - theta c S`` (Huang et al. 2022).

    M is a fixed mask ``(C, C, 3, 3)``, of ones until a file says otherwise, ``c (C, C)`` a learned one of the centre
    alone, and S the sum of W over its nine taps.

    Args:
        dim: Channels C.

    Raises:
        ValueError: ``dim`` is not positive.
    """

    def __init__(
        self, dim: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(dim=dim)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, bias=False, **dd)
        self.weight_mask = nn.Parameter(torch.empty(dim, dim, 3, 3, **dd), requires_grad=False)
        self.centre_mask = nn.Parameter(torch.empty(dim, dim, **dd))
        self.theta = nn.Parameter(torch.empty(1, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Masks of ones, and half of the difference."""
        nn.init.ones_(self.weight_mask)
        nn.init.ones_(self.centre_mask)
        nn.init.constant_(self.theta, 0.5)

    def weight(self) -> Tensor:
        """The weight that is convolved with, ``(C, C, 3, 3)``."""
        weight = self.conv.weight
        centre = self.theta * self.centre_mask * weight.sum((2, 3))
        return weight * (self.weight_mask - F.pad(centre[:, :, None, None], (1, 1, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C) -> (B, H, W, C)``."""
        return F.conv2d(x.permute(0, 3, 1, 2), self.weight(), padding=1).permute(0, 2, 3, 1)


class MapGate(EcaModule):
    """timm's efficient channel attention (Wang et al. 2020) with three taps, of a map with channels last."""

    def __init__(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__(kernel_size=3, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C) -> (B, H, W, C)``."""
        gate = self.gate(self.conv(x.mean((1, 2))[:, None]))
        return x * gate[:, :, None].expand_as(x)
