"""How PlainMamba goes from pixels to its map: convolutions at half the size, then patches of what they give."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import to_2tuple
from torch import Tensor, nn

from vimzoo.layers.checks import check_sizes
from vimzoo.layers.images import check_image_sizes, warn_unless_finite

WIDTH = 64
"""Channels of the convolutions."""


class ConvStem(nn.Module):
    """Images to a map with channels last, at any image size; what fills no patch is padded at the right and bottom.

    Args:
        img_size: Height and width that a position embedding belongs to.
        patch_size: Pixels per position, even.
        in_chans: Channels of the images.
        embed_dim: Channels of the map.
        convs: 3 x 3 convolutions between the first one and the patches.

    Raises:
        ValueError: a size is not positive, or ``patch_size`` is odd.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 192,
        convs: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim)
        if patch_size % 2:
            raise ValueError(f"patch_size: expected an even number, got {patch_size}")
        if not isinstance(convs, int) or convs < 0:
            raise ValueError(f"convs: expected 0 or more, got {convs!r}")
        self.in_chans = in_chans
        self.patch_size = (patch_size, patch_size)
        self.set_input_size(img_size)
        conv = nn.Conv2d(in_chans, WIDTH, 7, 2, padding=3, bias=False, **dd)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(WIDTH, **dd), nn.ReLU())
        self.convs = nn.Sequential()
        for _ in range(convs):
            self.convs.append(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False, **dd))
            self.convs.append(nn.BatchNorm2d(WIDTH, **dd))
            self.convs.append(nn.ReLU())
        self.proj = nn.Conv2d(WIDTH, embed_dim, patch_size // 2, patch_size // 2, **dd)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Set the size of images that the grid belongs to."""
        self.img_size: tuple[int, int] = to_2tuple(img_size)
        check_sizes(img_size=self.img_size[0])
        check_sizes(img_size=self.img_size[1])
        self.grid_size: tuple[int, int] = self.dynamic_feat_size(self.img_size)

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the map for images of this height and width."""
        rows, columns = (-(-side // size) for side, size in zip(img_size, self.patch_size, strict=True))
        return rows, columns

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` -> map ``(B, h, w, D)``.

        Raises:
            ValueError: images without four axes, or with other channels.
        """
        x = check_image_sizes(x, self.in_chans, (1, 1))
        warn_unless_finite(x)
        x = self.convs(self.stem(x))
        half = self.patch_size[0] // 2
        x = F.pad(x, (0, -x.shape[3] % half, 0, -x.shape[2] % half))
        return self.proj(x).permute(0, 2, 3, 1)
