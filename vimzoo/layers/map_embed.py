"""How VMamba goes from pixels to its first map, and from one map to the next of half the size."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_choice, check_map, check_norm_dtype, check_sizes
from .images import check_image_sizes, warn_unless_finite
from .linear import apply_linear
from .maps import map_norm
from .plain import apply_conv, apply_norm, convolved

STEMS = ("patch", "conv")
DOWNSAMPLES = ("merge", "conv2", "conv3")


class MapStem(nn.Module):
    """Images to a map with channels last.

    Args:
        in_chans: Channels of the images.
        dim: Channels C of the map.
        patch_size: Pixels per position, in each direction.
        kind: ``"patch"``: one convolution of separate patches (the authors' v1); pixels that fill no patch are
            dropped. ``"conv"``: two overlapping ones with GELU in between (v2).
        norm: Norm after each convolution, as `vimzoo.layers.maps.map_norm` takes it.

    Raises:
        ValueError: ``kind`` or ``norm`` is unknown, a size is not positive, or ``patch_size`` does not suit ``kind``.
    """

    def __init__(
        self,
        in_chans: int = 3,
        dim: int = 96,
        patch_size: int = 4,
        kind: str = "conv",
        norm: str = "layer",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_choice(STEMS, kind=kind)
        check_sizes(in_chans=in_chans, dim=dim, patch_size=patch_size)
        if kind == "conv" and patch_size % 2:
            raise ValueError(
                f"patch_size: expected an even number with overlapping patches, got {patch_size}"
            )
        if kind == "conv" and dim < 2:
            raise ValueError(f"dim: expected at least 2 channels with overlapping patches, got {dim}")
        self.in_chans = in_chans
        self.patch_size = patch_size
        if kind == "patch":
            self.conv1 = nn.Conv2d(in_chans, dim, patch_size, patch_size, **dd)
            self.norm1 = map_norm(norm, dim, **dd)
            self.conv2: nn.Module | None = None
            self.norm2: nn.Module | None = None
        else:
            step = patch_size // 2
            self.conv1 = nn.Conv2d(in_chans, dim // 2, step + 1, step, padding=1, **dd)
            self.norm1 = map_norm(norm, dim // 2, **dd)
            self.conv2 = nn.Conv2d(dim // 2, dim, step + 1, step, padding=1, **dd)
            self.norm2 = map_norm(norm, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` -> map ``(B, h, w, D)``.

        Raises:
            ValueError: images without four axes, with other channels, or smaller than a patch.
        """
        x = check_image_sizes(x, self.in_chans, (self.patch_size, self.patch_size))
        warn_unless_finite(x)
        x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # channels last, in words that vmap knows
        x = (self.conv1(x) if torch.jit.is_scripting() else convolved(self.conv1, x)).permute(0, 2, 3, 1)
        overlapping = self.conv2 is not None
        if torch.jit.is_scripting():
            x = F.gelu(self.norm1(x)) if overlapping else self.norm1(x)
        else:
            x = apply_norm(self.norm1, x, gelu=overlapping)
        if self.conv2 is not None and self.norm2 is not None:
            x = x.permute(0, 3, 1, 2)
            x = (self.conv2(x) if torch.jit.is_scripting() else convolved(self.conv2, x)).permute(0, 2, 3, 1)
            x = self.norm2(x) if torch.jit.is_scripting() else apply_norm(self.norm2, x)
        return x


class MapDownsample(nn.Module):
    """A map to one of half the height and width.

    Args:
        dim, out_dim: Channels before and after.
        kind: ``"merge"``: norm and linear layer of 2 x 2 neighbours (the authors' v1, Swin's); ``"conv2"``: 2 x 2
            convolution (v2); ``"conv3"``: 3 x 3, overlapping (v3). Of odd maps the first pads, the second drops
            the last line, the third keeps all.
        norm: As `vimzoo.layers.maps.map_norm` takes it; after a convolution, before the linear layer.

    Raises:
        ValueError: ``kind`` or ``norm`` is unknown, or a size is not positive.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        kind: str = "conv3",
        norm: str = "layer",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_choice(DOWNSAMPLES, kind=kind)
        check_sizes(dim=dim, out_dim=out_dim)
        self.dim = dim
        self.smallest = {"merge": 0, "conv2": 2, "conv3": 1}[kind]
        self.merge = kind == "merge"
        self.norm = map_norm(norm, 4 * dim if self.merge else out_dim, **dd)
        if self.merge:
            self.proj: nn.Module = nn.Linear(4 * dim, out_dim, bias=False, **dd)
        else:
            size = int(kind[-1])
            self.proj = nn.Conv2d(dim, out_dim, size, 2, padding=size // 3, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, H', W', D)``.

        Raises:
            ValueError: ``x`` is not such a map, or too small for the convolution.
        """
        x = check_map(x, self.dim, 3, self.smallest)
        if not self.merge:
            if torch.jit.is_scripting():
                return self.norm(self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
            return apply_norm(self.norm, apply_conv(self.proj, x))
        if torch.jit.is_scripting():
            return self.proj(self.norm(merge_neighbours(x)))
        check_norm_dtype(x, self.norm)
        x = merge_neighbours(x)
        return apply_linear(self.proj, apply_norm(self.norm, x))


class MapExpand(nn.Module):
    """A map to one of ``factor`` times the height and width: a linear layer whose output is spread, and a norm.

    Args:
        dim, out_dim: Channels before and after.
        factor: Positions per position and axis.

    Raises:
        ValueError: a size is not positive.
    """

    def __init__(self, dim: int, out_dim: int, factor: int = 2) -> None:
        super().__init__()
        check_sizes(dim=dim, out_dim=out_dim, factor=factor)
        self.factor = factor
        self.proj = nn.Linear(dim, factor * factor * out_dim, bias=False)
        self.norm = map_norm("layer", out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, factor H, factor W, D)."""
        x = self.proj(x)
        x = x.unflatten(3, (self.factor, self.factor, -1)).permute(0, 1, 3, 2, 4, 5)
        return self.norm(x.flatten(3, 4).flatten(1, 2))


def merge_neighbours(x: Tensor) -> Tensor:
    """``(B, H, W, C) -> (B, ceil(H/2), ceil(W/2), 4 C)``: each 2 x 2 square column by column, zeros beyond the edge."""
    x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return x.permute(0, 1, 3, 4, 2, 5).flatten(3)
