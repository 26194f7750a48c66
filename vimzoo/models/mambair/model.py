"""MambaIR: a residual network of state-space blocks between two convolutions; the package registers its variants."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import calculate_drop_path_rates
from timm.models import checkpoint
from torch import Tensor, nn

from vimzoo.layers.checks import check_choice, check_rates, check_sizes
from vimzoo.layers.mambair import CAB_FORMS, SQUEEZE, RestorationBlock
from vimzoo.layers.reconstruction import ImageHead, residual_conv

from ..restoration_base import RestorationModel, check_image
from ..weights.loading import FilterFn
from .names import checkpoint_filter_fn

__all__ = ["MambaIR", "ResidualGroup", "checkpoint_filter_fn"]


class NamedRestorationModel(RestorationModel):
    """A network that loads MambaIR's authors' files."""

    @torch.jit.ignore
    def filter_fn(self) -> FilterFn:
        """MambaIR's `checkpoint_filter_fn`."""
        return checkpoint_filter_fn


class ResidualGroup(nn.Module):
    """Blocks, then a convolution, around which the group's input skips.

    Args:
        blocks: The blocks.
        conv: What follows them.
    """

    def __init__(self, blocks: Sequence[nn.Module], conv: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.conv = conv

    def forward(self, x: Tensor, recompute: bool = False) -> Tensor:
        """Map ``(B, H, W, C) -> (B, H, W, C)``; ``recompute`` blocks in the backward pass."""
        y = x
        for block in self.blocks:
            if recompute and not torch.jit.is_scripting():
                y = checkpoint(block, y)
            else:
                y = block(y)
        return self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) + x


class MambaIR(NamedRestorationModel):
    """MambaIR (Guo et al., ECCV 2024, section 3.2); any image size from 1 x 1 on.

    The authors' names are in parentheses where they differ; `vimzoo.compat.mambair.MambaIR` takes those.

    Args:
        in_chans: Channels of the images; the mean of RGB images is subtracted on the way in and added at the end.
        embed_dim: Channels C of the maps, at least 30.
        depths: Blocks per residual group.
        d_state: States per channel of the scan.
        ratio: Inner width of the scan in multiples of C (``mlp_ratio``).
        scale: Output pixels per input pixel and axis (``upscale``).
        upsampler: ``"pixelshuffle"``, ``"pixelshuffledirect"`` (light models), ``"nearest+conv"`` or ``""``
            (same size, the result is added to the image), as in `vimzoo.layers.reconstruction.ImageHead`.
        cab: Form of the blocks' `CAB`; by default ``"light"`` with ``"pixelshuffledirect"``, else ``"conv"``.
        resi_connection: ``"1conv"`` or ``"3conv"`` before the long skips.
        img_range: Images are multiplied by it on the way in and divided at the end.
        stem_norm: Normalise the first map (``patch_norm``).
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0; the authors train with 0.1.
        drop_rate: Dropout of the first map, after its norm; the long skip goes around it.

    Raises:
        ValueError: an option has no such value, or a size is not positive.
    """

    def __init__(
        self,
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (6, 6, 6, 6),
        d_state: int = 16,
        ratio: float = 2.0,
        scale: int = 2,
        upsampler: str = "",
        cab: str | None = None,
        resi_connection: str = "1conv",
        img_range: float = 1.0,
        stem_norm: bool = True,
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        if not depths or min(depths) < 1:
            raise ValueError(f"depths: expected a positive number of blocks per group, got {tuple(depths)}")
        check_sizes(in_chans=in_chans, embed_dim=embed_dim)
        if embed_dim < SQUEEZE:
            raise ValueError(f"embed_dim: expected at least {SQUEEZE} channels, got {embed_dim}")
        check_rates(drop_rate=drop_rate, drop_path_rate=drop_path_rate)
        if not img_range > 0:
            raise ValueError(f"img_range: expected a positive number, got {img_range}")
        if cab is not None:
            check_choice(CAB_FORMS, cab=cab)
        self.in_chans = in_chans
        self.embed_dim = self.num_features = embed_dim
        self.scale = scale if upsampler else 1
        self.upsampler = upsampler
        self.img_range = img_range
        self.feature_info = [
            dict(num_chs=embed_dim, reduction=1, module=f"groups.{i}") for i in range(len(depths))
        ]
        self.mean: Tensor
        self._keep_mean(in_chans, **dd)
        self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, padding=1, **dd)
        self.stem_norm = nn.LayerNorm(embed_dim, **dd) if stem_norm else nn.Identity()
        self.stem_drop = nn.Dropout(drop_rate)
        form = cab or ("light" if upsampler == "pixelshuffledirect" else "conv")
        rates: Any = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        self.groups = nn.ModuleList(
            ResidualGroup(
                [
                    RestorationBlock(embed_dim, d_state, ratio, form, drop_path=next(rates), **dd)
                    for _ in range(depth)
                ],
                residual_conv(embed_dim, resi_connection, **dd),
            )
            for depth in depths
        )
        self.norm = nn.LayerNorm(embed_dim, **dd)
        self.conv_body = residual_conv(embed_dim, resi_connection, **dd)
        self.head = ImageHead(embed_dim, in_chans, scale, upsampler, **dd)
        self.init_weights(needs_reset=False)

    def forward_features(self, x: Tensor) -> Tensor:
        """First map ``(B, H, W, C)`` -> deep features of the same shape."""
        y = self.stem_drop(self.stem_norm(x))
        for group in self.groups:
            y = group(y, self.grad_checkpointing)
        return self.conv_body(self.norm(y).permute(0, 3, 1, 2)).permute(0, 2, 3, 1) + x

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, channels, H, W)``, as trained in 0..1 -> images ``(B, channels, H scale, W scale)``.

        Raises:
            ValueError: ``x`` has another number of axes or channels.
        """
        x = check_image(x, self.in_chans)
        mean = self.mean.to(x.dtype)
        x = (x - mean) * self.img_range
        y = self.head(self.forward_features(self.conv_first(x).permute(0, 2, 3, 1)))
        if not self.upsampler:
            y = y + x
        return y / self.img_range + mean
