"""SpectralFusionMamba: an image of many bands, sharpened with a finer image of few (Peng et al. 2024).

It takes two images; ``task=sharpen`` trains it, and `python -m vimzoo.restore` takes the second one by ``--with``.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vimzoo.layers.checks import check_floating, check_sizes
from vimzoo.layers.plain import apply_norm

from ..export_options import ExportOptions
from ..inputs import Input, ModelWithInputs
from .halves import halves
from .mixer import PathMamba

__all__ = ["SpectralFusionMamba"]


class Mixed(nn.Module):
    """A map plus its normalised mixture."""

    def __init__(self, dim: int, d_state: int, **dd: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, **dd)
        self.mixer = PathMamba(dim, d_state, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, H, W, C)``."""
        return x + self.mixer(apply_norm(self.norm, x))


class GuidedMixed(nn.Module):
    """A map plus its normalised mixture, which another map guides."""

    def __init__(self, dim: int, d_state: int, **dd: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, **dd)
        self.guide_norm = nn.LayerNorm(dim, **dd)
        self.mixer = PathMamba(dim, d_state, guided=True, **dd)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """``(B, H, W, C)`` twice ``-> (B, H, W, C)``."""
        return x + self.mixer(apply_norm(self.norm, x), apply_norm(self.guide_norm, guide))


class FusionBlock(nn.Module):
    """A map of the fine image and one of the bands, mixed each alone, then each guided by the other, and joined."""

    def __init__(self, dim: int, d_state: int, **dd: Any) -> None:
        super().__init__()
        self.pan, self.bands = Mixed(dim, d_state, **dd), Mixed(dim, d_state, **dd)
        self.pan_guided, self.bands_guided = GuidedMixed(dim, d_state, **dd), GuidedMixed(dim, d_state, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def forward(self, pan: Tensor, bands: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(B, H, W, C)`` twice -> the two maps mixed alone, and what joins them."""
        pan, bands = self.pan(pan), self.bands(bands)
        joined = (self.pan_guided(pan, bands) + self.bands_guided(bands, pan)) / 2
        return pan, bands, self.proj(joined)


class Step(nn.Module):
    """A step down or up between resolutions, the same for both maps. Maps ``(B, C, H, W)``."""

    def __init__(self, dim: int, out_dim: int, **dd: Any) -> None:
        super().__init__()
        kind = nn.Conv2d if out_dim > dim else nn.ConvTranspose2d
        self.proj = kind(dim, out_dim, 2, 2, **dd)
        self.smooth = None
        if out_dim < dim:
            depthwise = nn.Conv2d(out_dim, out_dim, 3, padding=1, groups=out_dim, **dd)
            self.smooth = nn.Sequential(depthwise, nn.Conv2d(out_dim, out_dim, 1, **dd))

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """``(B, C, H, W) -> (B, D, H', W')``."""
        x = F.leaky_relu(self.proj(x))
        if self.smooth is None or skip is None:
            return x
        return F.leaky_relu(self.smooth(x + skip))


class BandGate(nn.Module):
    """One factor in 0..1 per band, from a bidirectional scan over the bands' largest values."""

    def __init__(self, dim: int, d_state: int, **dd: Any) -> None:
        super().__init__()
        self.raise_dim = nn.Linear(1, dim, **dd)
        self.norm = nn.LayerNorm(dim, **dd)
        self.mixer = PathMamba(dim, d_state, columns=False, **dd)
        self.lower_dim = nn.Linear(dim, 1, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W) -> (B, C, 1, 1)``."""
        bands = self.raise_dim(x.amax((2, 3)).unsqueeze(2))
        bands = self.mixer(apply_norm(self.norm, bands).unsqueeze(1)).squeeze(1)
        return self.lower_dim(bands).sigmoid().unsqueeze(3)


class SpectralFusionMamba(ModelWithInputs):
    """Sharpens an image of many bands (multispectral, hyperspectral) with a finer one of few (panchromatic, RGB).

    A U-shaped network with one stream of maps per image, at widths C, 2C, 4C, 2C, C. In each of its five stages either
    stream is mixed along rows and columns, then guides the other; a gate per band weighs what is added to the enlarged
    image. Any size in multiples of 4 of the fine image. The authors' option names are given in parentheses.

    Args:
        dim: Width C of the first stage.
        guide_chans: Bands of the fine image (``pan_dim``).
        in_chans: Bands of the coarse image (``ms_dim``).
        scale: Pixels of the fine image per pixel of the coarse one and axis.
        d_state: States N per channel.

    Raises:
        ValueError: a size is not positive.
    """

    export_options = ExportOptions(bound=1e-4)
    """With the published weights float32 is up to 5e-5 from float64, in PyTorch as in a file."""

    def __init__(
        self,
        dim: int = 32,
        guide_chans: int = 1,
        in_chans: int = 8,
        scale: int = 4,
        d_state: int = 8,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(dim=dim, guide_chans=guide_chans, in_chans=in_chans, scale=scale, d_state=d_state)
        self.guide_chans, self.in_chans, self.scale = guide_chans, in_chans, scale
        self.num_features = dim
        self.inputs = {"x": Input((in_chans,)), "guide": Input((guide_chans,), scale)}
        self.enlarge = nn.Conv2d(in_chans, in_chans * scale**2, 3, padding=1, bias=False, **dd)
        self.pan_stem = nn.Conv2d(guide_chans, dim, 3, padding=1, **dd)
        self.band_stem = nn.Conv2d(in_chans, dim, 3, padding=1, **dd)
        widths = [dim, 2 * dim, 4 * dim, 2 * dim, dim]
        self.blocks = nn.ModuleList(FusionBlock(width, d_state, **dd) for width in widths)
        self.steps = nn.ModuleList(Step(width, out, **dd) for width, out in pairwise(widths))
        self.head = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, **dd),
            nn.LeakyReLU(),
            nn.Conv2d(dim, in_chans, 3, padding=1, **dd),
        )
        self.band_gate = BandGate(dim, d_state, **dd)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Sharpens ``x``.

        Args:
            x: The coarse image ``(B, in_chans, H, W)``.
            guide: The fine image ``(B, guide_chans, scale * H, scale * W)``.

        Returns:
            ``(B, in_chans, scale * H, scale * W)``.

        Raises:
            TypeError: an image is not a tensor.
            ValueError: they are not such images, or the sides of the fine one are not multiples of 4.
        """
        self._check(x, guide)
        enlarged = F.pixel_shuffle(self.enlarge(x), self.scale)
        pan = F.leaky_relu(self.pan_stem(guide))
        bands = F.leaky_relu(self.band_stem(enlarged))
        both = torch.cat([pan, bands])
        skips: list[Tensor] = []
        for block, step in zip(self.blocks, self.steps, strict=False):  # the last block has no step after it
            pan, bands, joined = block(*halves(both.permute(0, 2, 3, 1)))
            both = (torch.cat([pan, bands]) + torch.cat([joined, joined])) / 2
            both = both.permute(0, 3, 1, 2)
            if step.smooth is None:  # a step down
                skips.append(both)
                both = step(both)
            else:
                both = step(both, skips.pop())
        _, _, joined = self.blocks[-1](*halves(both.permute(0, 2, 3, 1)))
        residual = self.head(joined.permute(0, 3, 1, 2))
        return residual * self.band_gate(x) + enlarged

    def _check(self, x: Tensor, guide: Tensor) -> None:
        sizes: dict[str, tuple[Tensor, int]] = {"x": (x, self.in_chans), "guide": (guide, self.guide_chans)}
        for name, (image, channels) in sizes.items():
            try:
                check_floating(image)
            except (TypeError, ValueError) as error:
                raise type(error)(str(error).replace("x:", f"{name}:", 1)) from None
            if image.dim() != 4 or image.shape[1] != channels:
                raise ValueError(
                    f"{name}: expected images (B, {channels}, H, W), got shape {tuple(image.shape)}"
                )
        height, width = x.shape[2] * self.scale, x.shape[3] * self.scale
        if guide.shape[0] != x.shape[0] or guide.shape[2] != height or guide.shape[3] != width:
            raise ValueError(
                f"guide: expected {x.shape[0]} images of {height} x {width} pixels, {self.scale} times those of x, got "
                f"{guide.shape[0]} of {guide.shape[2]} x {guide.shape[3]}"
            )
        if height % 4 or width % 4 or not height or not width:
            raise ValueError(f"guide: expected height and width in multiples of 4, got {height} x {width}")
