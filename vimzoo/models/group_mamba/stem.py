"""How GroupMamba goes from pixels to its map: three convolutions at half the size, and one to a quarter."""

from typing import Any

import torch
from torch import Tensor, nn

from vimzoo.layers.checks import check_sizes
from vimzoo.layers.images import check_image_sizes, warn_unless_finite


class ConvStem(nn.Module):
    """Images to a map with channels last, of a quarter of the height and width, rounded up.

    Args:
        in_chans: Channels of the images.
        dim: Channels C of the map.
        width: Channels of the convolutions at half the size.

    Raises:
        ValueError: a size is not positive.
    """

    def __init__(
        self,
        in_chans: int = 3,
        dim: int = 64,
        width: int = 32,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(in_chans=in_chans, dim=dim, width=width)
        self.in_chans = in_chans
        self.conv = nn.Sequential(nn.Conv2d(in_chans, width, 7, 2, padding=3, bias=False, **dd))
        for i in range(3):
            if i > 0:
                self.conv.append(nn.Conv2d(width, width, 3, padding=1, bias=False, **dd))
            self.conv.append(nn.BatchNorm2d(width, **dd))
            self.conv.append(nn.ReLU())
        self.proj = nn.Conv2d(width, dim, 3, 2, padding=1, **dd)
        self.norm = nn.LayerNorm(dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` -> map ``(B, ceil(H / 4), ceil(W / 4), D)``.

        Raises:
            ValueError: images without four axes, with other channels, or without pixels.
        """
        x = check_image_sizes(x, self.in_chans, (1, 1))
        warn_unless_finite(x)
        x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # channels last, in words that vmap knows
        return self.norm(self.proj(self.conv(x)).permute(0, 2, 3, 1))
