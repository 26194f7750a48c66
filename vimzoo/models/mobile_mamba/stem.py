"""How MobileMamba goes from pixels to its map: four convolutions of stride 2."""

import torch
from torch import Tensor, nn

from vimzoo.layers.checks import check_sizes
from vimzoo.layers.fused import ConvNorm
from vimzoo.layers.images import check_image_sizes, warn_unless_finite


class MobileStem(nn.Module):
    """Images to a map with channels last, of a sixteenth of the height and width, rounded up.

    Args:
        in_chans: Channels of the images.
        dim: Channels C of the map, a multiple of 8.

    Raises:
        ValueError: ``in_chans`` is not positive, or ``dim`` is not such a multiple.
    """

    def __init__(
        self,
        in_chans: int = 3,
        dim: int = 200,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(in_chans=in_chans, dim=dim)
        if dim % 8:
            raise ValueError(f"dims: expected a multiple of 8 in the first stage, got {dim}")
        self.in_chans = in_chans
        widths = (in_chans, dim // 8, dim // 4, dim // 2, dim)
        self.convs = nn.Sequential()
        for i in range(4):
            if i > 0:
                self.convs.append(nn.ReLU())
            self.convs.append(ConvNorm(widths[i], widths[i + 1], 3, 2, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` -> map ``(B, ceil(H / 16), ceil(W / 16), D)``.

        Raises:
            ValueError: images without four axes, with other channels, or without pixels.
        """
        x = check_image_sizes(x, self.in_chans, (1, 1))
        warn_unless_finite(x)
        x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # channels last, in words that vmap knows
        return self.convs(x).permute(0, 2, 3, 1)
