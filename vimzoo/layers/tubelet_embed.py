"""Clip to tokens: a patch embedding over several frames."""

from typing import Any

import torch
from timm.layers import resample_patch_embed, to_2tuple
from timm.models import register_notrace_function
from torch import Tensor, nn

from .checks import check_floating, check_sizes
from .images import warn_unless_finite
from .patch_embed import PatchEmbed


class TubeletEmbed(PatchEmbed):
    """Convolution over tubelets: patches of ``tubelet_size`` frames that do not overlap in time.

    Pixels at the right and bottom that do not fill a patch are dropped, and so are frames at the end that do not fill a
    tubelet.

    Args:
        img_size, patch_size, stride, in_chans, embed_dim, strict_img_size, dynamic_img_pad: As `PatchEmbed` takes them,
            except that ``dynamic_img_pad`` is not offered.
        num_frames: Frames of a clip.
        tubelet_size: Frames of a tubelet.

    Attributes:
        grid_frames: Tubelets along the clip.

    Raises:
        ValueError: a size is not positive, the frames are smaller than a patch, the clip is shorter than a tubelet, or
            ``dynamic_img_pad`` is set.
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
        num_frames: int = 8,
        tubelet_size: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_sizes(num_frames=num_frames, tubelet_size=tubelet_size)
        if dynamic_img_pad:
            raise ValueError("dynamic_img_pad: expected False, clips are not padded")
        super().__init__(
            img_size, patch_size, stride, in_chans, embed_dim, strict_img_size, device=device, dtype=dtype
        )
        self.tubelet_size = tubelet_size
        self.set_frames(num_frames)
        self.proj: Any = nn.Conv3d(
            in_chans, embed_dim, (tubelet_size, *self.patch_size), (tubelet_size, *self.stride),
            device=device, dtype=dtype,
        )  # fmt: skip

    def set_frames(self, num_frames: int) -> None:
        """Changes the number of frames of a clip.

        Raises:
            ValueError: they are fewer than a tubelet's.
        """
        if num_frames < self.tubelet_size:
            raise ValueError(
                f"num_frames: expected at least one tubelet, {self.tubelet_size} frames, got {num_frames}"
            )
        self.num_frames = num_frames
        self.grid_frames = num_frames // self.tubelet_size

    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
    ) -> None:
        """As `PatchEmbed.set_input_size`; the kernel of every frame is resampled alike."""
        if patch_size is not None and to_2tuple(patch_size) != self.patch_size:
            old, new = self.patch_size, to_2tuple(patch_size)
            step = (new[0] * self.stride[0] // old[0], new[1] * self.stride[1] // old[1])
            weight, bias = self.proj.weight, self.proj.bias
            proj: Any = nn.Conv3d(
                self.in_chans, len(weight), (self.tubelet_size, *new), (self.tubelet_size, *step),
                device=weight.device, dtype=weight.dtype,
            )  # fmt: skip
            with torch.no_grad():
                frames = [resample_patch_embed(frame, list(new)) for frame in weight.unbind(2)]
                proj.weight.copy_(torch.stack(frames, dim=2))
                proj.bias.copy_(bias)
            proj.weight.requires_grad_(weight.requires_grad)
            proj.bias.requires_grad_(bias.requires_grad)
            self.proj, self.patch_size, self.stride = proj.train(self.training), new, step
        super().set_input_size(img_size)

    def forward(self, x: Tensor) -> Tensor:
        """Clips ``(B, C, T, H, W)`` -> tokens ``(B, tubelets, rows * columns, D)``.

        Raises:
            ValueError: the clips do not have five axes, or have other channels, frames or an unsupported size.
        """
        x = check_clip_sizes(
            x,
            self.in_chans,
            self.num_frames,
            self.patch_size,
            self.img_size if self.strict_img_size else None,
        )
        warn_unless_finite(x)
        return self.project(x)

    def project(self, x: Tensor) -> Tensor:
        """As ``forward``, of clips of any number of frames."""
        return self.proj(x).flatten(3).permute(0, 2, 3, 1)


@register_notrace_function  # sizes decide, which FX cannot follow
@torch.jit.script_if_tracing  # so that a traced model checks the clips that it is given, not those it was traced with
def check_clip_sizes(
    x: Tensor, in_chans: int, frames: int, smallest: tuple[int, int], exact: tuple[int, int] | None = None
) -> Tensor:
    """Return ``x`` if it is a batch of clips ``(B, in_chans, frames, H, W)`` with enough pixels.

    Args:
        smallest: Least height and width.
        exact: The only height and width, of a model made for one size.

    Raises:
        TypeError: ``x`` is not a tensor.
        ValueError: ``x`` is not floating-point, or has other axes, channels, frames or sizes.
    """
    if not torch.jit.is_scripting():
        check_floating(x)
    if x.dim() != 5:
        raise ValueError(f"x: expected a batch of clips (B, {in_chans}, T, H, W), got {x.dim()} dimensions")
    if x.shape[1] != in_chans:
        raise ValueError(f"x: expected {in_chans} channels (in_chans), got {x.shape[1]}")
    if x.shape[2] != frames:
        raise ValueError(f"x: expected {frames} frames (num_frames), got {x.shape[2]}")
    height, width = x.shape[3], x.shape[4]
    if exact is not None and (height != exact[0] or width != exact[1]):
        raise ValueError(
            f"x: expected a height of {exact[0]} and a width of {exact[1]} (img_size), got {height} and"
            f" {width}; other sizes need img_size= or dynamic_img_size=True"
        )
    if height < smallest[0] or width < smallest[1]:
        raise ValueError(
            f"x: expected a height of at least {smallest[0]} and a width of at least {smallest[1]}, one patch,"
            f" got {height} and {width}"
        )
    return x
