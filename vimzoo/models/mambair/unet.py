"""MambaIR's U-Net for real photographs: Restormer's layout (Zamir et al. 2022) with state-space blocks."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import checkpoint
from torch import Tensor, nn

from vimzoo.layers.checks import check_rates, check_sizes
from vimzoo.layers.mambair import SQUEEZE, RestorationBlock

from ..export_options import ExportOptions
from ..restoration_base import check_image
from .model import NamedRestorationModel

__all__ = ["D_STATES_MAR2024", "LEVELS", "MambaIRUNet"]

LEVELS = (
    "encoder_level1", "encoder_level2", "encoder_level3", "latent",
    "decoder_level3", "decoder_level2", "decoder_level1", "refinement",
)  # fmt: skip
"""In the order in which an image passes them."""
D_STATES_MAR2024 = (4, 8, 16, 32, 16, 8, 8, 8)
"""States per level before July 2024; 16 everywhere since."""


class MapPixelUnshuffle(nn.Module):
    """Halves a map's size, or doubles it with ``up``: a convolution, then pixels to channels or back.

    Args:
        dim: Channels C.
        up: ``(B, H, W, C) -> (B, 2H, 2W, C/2)`` instead of ``(B, H/2, W/2, 2C)``.
    """

    def __init__(
        self,
        dim: int,
        up: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.up = up
        out = 2 * dim if up else dim // 2
        self.conv = nn.Conv2d(dim, out, 3, padding=1, bias=False, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = self.conv(x.permute(0, 3, 1, 2))
        y = F.pixel_shuffle(y, 2) if self.up else F.pixel_unshuffle(y, 2)
        return y.permute(0, 2, 3, 1).contiguous()


class MambaIRUNet(NamedRestorationModel):
    """MambaIR's U-Net (real denoising); heights and widths are multiples of 8.

    Args:
        in_chans, out_chans: Channels of the images (``inp_channels``, ``out_channels``).
        embed_dim: Channels of the first level (``dim``), which double from level to level.
        depths: Blocks of the four levels (``num_blocks``), the same down and up.
        refinement_depth: Blocks after the last level (``num_refinement_blocks``).
        ratio: Inner width of the scan (``mlp_ratio``).
        d_state: States per channel: one number, or one for each of `LEVELS`.
        bias: Bias of the 1 x 1 convolutions and of the last one.
        drop_path_rate: Stochastic depth of every block.

    Raises:
        ValueError: an option has no such value, or a size is not positive.
    """

    multiple_of = 8
    export_options = ExportOptions(size_step=8)

    def __init__(
        self,
        in_chans: int = 3,
        out_chans: int = 3,
        embed_dim: int = 48,
        depths: Sequence[int] = (4, 6, 6, 8),
        refinement_depth: int = 4,
        ratio: float = 1.5,
        d_state: int | Sequence[int] = 16,
        bias: bool = False,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        states = (d_state,) * len(LEVELS) if isinstance(d_state, int | Integral) else tuple(d_state)
        if len(depths) != 4 or min(depths) < 1:
            raise ValueError(f"depths: expected four positive numbers, got {tuple(depths)}")
        if len(states) != len(LEVELS):
            raise ValueError(f"d_state: expected one number or {len(LEVELS)}, got {tuple(states)}")
        check_sizes(
            in_chans=in_chans, out_chans=out_chans, embed_dim=embed_dim, refinement_depth=refinement_depth
        )
        if embed_dim < SQUEEZE:
            raise ValueError(f"embed_dim: expected at least {SQUEEZE} channels, got {embed_dim}")
        check_rates(drop_path_rate=drop_path_rate)
        if in_chans != out_chans:
            raise ValueError(f"out_chans: expected {in_chans}, the image is added to the result")
        self.in_chans = in_chans
        self.embed_dim = dim = embed_dim
        self.num_features = 2 * dim
        widths = (dim, 2 * dim, 4 * dim, 8 * dim, 4 * dim, 2 * dim, 2 * dim, 2 * dim)
        counts = (*depths, depths[2], depths[1], depths[0], refinement_depth)
        self.feature_info = [
            dict(num_chs=width, reduction=reduction, module=name)
            for name, width, reduction in zip(LEVELS, widths, (1, 2, 4, 8, 4, 2, 1, 1), strict=True)
        ]
        self.conv_first = nn.Conv2d(in_chans, dim, 3, padding=1, bias=False, **dd)
        for name, width, count, state in zip(LEVELS, widths, counts, states, strict=True):
            blocks = [
                RestorationBlock(width, state, ratio, drop_path=drop_path_rate, **dd) for _ in range(count)
            ]
            self.add_module(name, nn.ModuleList(blocks))
        self.down1_2, self.down2_3, self.down3_4 = (MapPixelUnshuffle(dim * 2**i, **dd) for i in range(3))
        self.up4_3, self.up3_2, self.up2_1 = (MapPixelUnshuffle(dim * 2**i, up=True, **dd) for i in (3, 2, 1))
        self.reduce_chan_level3 = nn.Conv2d(8 * dim, 4 * dim, 1, bias=bias, **dd)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=bias, **dd)
        self.output = nn.Conv2d(2 * dim, out_chans, 3, padding=1, bias=bias, **dd)

    @torch.jit.ignore
    def init_weights(self, needs_reset: bool = True) -> None:
        """Initial values, torch's own as in the authors' code; see `RestorationModel.init_weights`."""
        if needs_reset:
            for module in self.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()  # type: ignore[operator]

    def _level(self, name: str, x: Tensor) -> Tensor:
        for block in getattr(self, name):
            x = checkpoint(block, x) if self.grad_checkpointing else block(x)
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """First map ``(B, H, W, C)`` -> deep features ``(B, H, W, 2C)``."""
        level1 = self._level("encoder_level1", x)
        level2 = self._level("encoder_level2", self.down1_2(level1))
        level3 = self._level("encoder_level3", self.down2_3(level2))
        latent = self._level("latent", self.down3_4(level3))
        y = torch.cat([self.up4_3(latent), level3], -1).permute(0, 3, 1, 2)
        y = self.reduce_chan_level3(y).permute(0, 2, 3, 1)
        y = self.up3_2(self._level("decoder_level3", y))
        y = torch.cat([y, level2], -1).permute(0, 3, 1, 2)
        y = self.reduce_chan_level2(y).permute(0, 2, 3, 1)
        y = self.up2_1(self._level("decoder_level2", y))
        return self._level("refinement", self._level("decoder_level1", torch.cat([y, level1], -1)))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, channels, H, W)`` -> images of the same shape.

        Raises:
            ValueError: ``x`` has another number of axes or channels, or sides that are not multiples of 8.
        """
        x = check_image(x, self.in_chans, self.multiple_of)
        y = self.forward_features(self.conv_first(x).permute(0, 2, 3, 1))
        return self.output(y.permute(0, 3, 1, 2)) + x
