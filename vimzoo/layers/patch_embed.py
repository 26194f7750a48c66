"""Image to tokens, with patches that may overlap."""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import lecun_normal_, resample_patch_embed, to_2tuple
from torch import Tensor, nn

from .images import check_image_sizes, warn_unless_finite
from .plain import convolved


class PatchEmbed(nn.Module):
    """Convolution that turns an image into a row-major sequence of patch tokens.

    Differs from timm's in the stride: Vim's fine-tuned models step half a patch (8 pixels for patches of 16).
    Pixels at the right and bottom that do not fill a step are dropped, or the image is padded with zeros.

    Args:
        img_size: Height and width, or one number for both.
        patch_size: Kernel of the convolution.
        stride: Step between patches, by default ``patch_size``.
        in_chans: Channels of the image.
        embed_dim: Width of a token.
        strict_img_size: Reject images of another size than ``img_size``.
        dynamic_img_pad: Pad images instead of dropping pixels.

    Raises:
        ValueError: a size is not positive, or the image is smaller than a patch.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        stride: int | tuple[int, int] | None = None,
        in_chans: int = 3,
        embed_dim: int = 192,
        strict_img_size: bool = True,
        dynamic_img_pad: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.patch_size = _positive("patch_size", patch_size)
        self.stride = self.patch_size if stride is None else _positive("stride", stride)
        _positive("in_chans", in_chans)
        _positive("embed_dim", embed_dim)
        self.in_chans = in_chans
        self.strict_img_size = strict_img_size
        self.dynamic_img_pad = dynamic_img_pad
        self._set_size(img_size)
        self.proj = nn.Conv2d(in_chans, embed_dim, self.patch_size, self.stride, device=device, dtype=dtype)

    def _set_size(self, img_size: int | tuple[int, int]) -> None:
        self.img_size: tuple[int, int] = _positive("img_size", img_size)
        if any(size < patch for size, patch in zip(self.img_size, self.patch_size, strict=True)):
            raise ValueError(
                f"img_size: expected at least one patch, {self.patch_size[0]} x {self.patch_size[1]} pixels,"
                f" got {self.img_size[0]} x {self.img_size[1]}"
            )
        self.grid_size: tuple[int, int] = self.dynamic_feat_size(self.img_size)
        self.num_patches: int = self.grid_size[0] * self.grid_size[1]

    def init_weights(self) -> None:
        """Vim's start: LeCun normal, zero bias."""
        lecun_normal_(self.proj.weight)
        if self.proj.bias is not None:
            nn.init.zeros_(self.proj.bias)

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Pixels from one token to the next; the larger of both axes as a scalar."""
        return max(self.stride) if as_scalar else self.stride

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tokens for an image of this height and width."""
        if self.dynamic_img_pad:
            rows = -((self.patch_size[0] - img_size[0]) // self.stride[0])
            columns = -((self.patch_size[1] - img_size[1]) // self.stride[1])
        else:
            rows = (img_size[0] - self.patch_size[0]) // self.stride[0]
            columns = (img_size[1] - self.patch_size[1]) // self.stride[1]
        return rows + 1, columns + 1

    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
    ) -> None:
        """Changes the image size, and the patch size by resampling the kernel; the stride scales with it."""
        if patch_size is not None and to_2tuple(patch_size) != self.patch_size:
            old, new = self.patch_size, _positive("patch_size", patch_size)
            self.stride = (new[0] * self.stride[0] // old[0], new[1] * self.stride[1] // old[1])
            self.patch_size = new
            weight, bias = self.proj.weight, self.proj.bias
            assert bias is not None
            proj: Any = nn.Conv2d(
                self.in_chans, len(weight), new, self.stride, device=weight.device, dtype=weight.dtype
            )
            with torch.no_grad():
                proj.weight.copy_(resample_patch_embed(weight, list(new)))
                proj.bias.copy_(bias)
            proj.weight.requires_grad_(weight.requires_grad)
            proj.bias.requires_grad_(bias.requires_grad)
            self.proj = proj.train(self.training)
        self._set_size(self.img_size if img_size is None else img_size)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` -> tokens ``(B, rows * columns, D)``.

        Raises:
            ValueError: the images do not have four axes, or have other channels or an unsupported size.
        """
        x = check_image_sizes(
            x, self.in_chans, self.patch_size, self.img_size if self.strict_img_size else None
        )
        warn_unless_finite(x)
        if self.dynamic_img_pad:
            height, width = x.shape[2], x.shape[3]
            bottom = (self.patch_size[0] - height) % self.stride[0]
            right = (self.patch_size[1] - width) % self.stride[1]
            x = F.pad(x, (0, right, 0, bottom))
        y = self.proj(x) if torch.jit.is_scripting() else convolved(self.proj, x)
        return y.flatten(2).transpose(1, 2)


def _positive(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    try:
        pair = tuple(operator.index(size) for size in to_2tuple(value))
    except TypeError:  # a fraction
        pair = ()
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{name}: expected a positive number, or two, got {value!r}")
    return pair
