"""From a feature map to the image: the residual groups' convolutions and the upsampling heads of restoration models."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_map, check_sizes

UPSAMPLERS = ("pixelshuffle", "pixelshuffledirect", "nearest+conv", "")


def residual_conv(dim: int, kind: str = "1conv", **dd: Any) -> nn.Module:
    """The convolution before a long skip: ``"1conv"``, or ``"3conv"`` with a quarter of the channels between.

    Raises:
        ValueError: ``kind`` is neither.
    """
    if kind == "1conv":
        return nn.Conv2d(dim, dim, 3, padding=1, **dd)
    if kind != "3conv":
        raise ValueError(f"resi_connection: expected '1conv' or '3conv', got {kind!r}")
    return nn.Sequential(
        nn.Conv2d(dim, dim // 4, 3, padding=1, **dd),
        nn.LeakyReLU(0.2),
        nn.Conv2d(dim // 4, dim // 4, 1, **dd),
        nn.LeakyReLU(0.2),
        nn.Conv2d(dim // 4, dim, 3, padding=1, **dd),
    )


def _conv(dim: int, out: int, **dd: Any) -> nn.Conv2d:
    return nn.Conv2d(dim, out, 3, padding=1, **dd)


class ImageHead(nn.Module):
    """Feature map to image: ``pixelshuffle`` through 64 channels, ``pixelshuffledirect`` in one step (light models),
    ``nearest+conv`` (real-world models, x4) or ``""``, one convolution whose result is added to the input.

    Args:
        dim: Channels of the map.
        out_chans: Channels of the image.
        scale: Pixels per position and axis: 1, 2, 3, 4 or another power of two.
        upsampler: See above.
        width: Channels of the inner convolutions.

    Raises:
        ValueError: ``upsampler`` is unknown, or does not do this scale.
    """

    def __init__(
        self,
        dim: int,
        out_chans: int,
        scale: int = 1,
        upsampler: str = "",
        width: int = 64,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(dim=dim, out_chans=out_chans, width=width)
        if upsampler not in UPSAMPLERS:
            raise ValueError(f"upsampler: expected one of {UPSAMPLERS}, got {upsampler!r}")
        power_of_two = scale > 0 and scale & (scale - 1) == 0
        if (upsampler == "pixelshuffle" and not (power_of_two or scale == 3)) or scale < 1:
            raise ValueError(f"scale: expected a power of two or 3, got {scale}")
        if upsampler == "nearest+conv" and scale != 4:
            raise ValueError(f"scale: expected 4 with 'nearest+conv', got {scale}")
        self.dim = dim
        self.kind = upsampler
        self.step = scale if upsampler == "pixelshuffledirect" or scale == 3 else 2
        self.ups = nn.ModuleList()
        self.conv_in: nn.Module = nn.Identity()
        self.conv_up1: nn.Module = nn.Identity()
        self.conv_up2: nn.Module = nn.Identity()
        self.conv_hr: nn.Module = nn.Identity()
        self.conv_out: nn.Module = nn.Identity()
        if upsampler == "pixelshuffledirect":
            self.ups.append(_conv(dim, scale * scale * out_chans, **dd))
            return
        if upsampler:
            self.conv_in = _conv(dim, width, **dd)
        if upsampler == "pixelshuffle":
            steps = 1 if scale == 3 else scale.bit_length() - 1
            self.ups.extend(_conv(width, self.step**2 * width, **dd) for _ in range(steps))
        if upsampler == "nearest+conv":
            self.conv_up1, self.conv_up2 = _conv(width, width, **dd), _conv(width, width, **dd)
            self.conv_hr = _conv(width, width, **dd)
        self.conv_out = _conv(width if upsampler else dim, out_chans, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` -> image ``(B, channels, H scale, W scale)``.

        Raises:
            ValueError: ``x`` is not such a map, or has no positions.
        """
        x = check_map(x, self.dim, 3, 1)
        x = x.permute(0, 3, 1, 2)
        if self.kind in ("pixelshuffle", "nearest+conv"):
            x = F.leaky_relu(self.conv_in(x), 0.01)
        for conv in self.ups:
            x = F.pixel_shuffle(conv(x), self.step)
        if self.kind == "nearest+conv":
            x = F.leaky_relu(self.conv_up1(F.interpolate(x, scale_factor=2.0, mode="nearest")), 0.2)
            x = F.leaky_relu(self.conv_up2(F.interpolate(x, scale_factor=2.0, mode="nearest")), 0.2)
            x = F.leaky_relu(self.conv_hr(x), 0.2)
        return self.conv_out(x)
