"""The MambaIR authors' layers: ours, with their arguments, positions and defaults."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import to_2tuple
from torch import Tensor, nn

from vimzoo import layers
from vimzoo.layers import mambair as restoration

from .attributes import Alias, OfficialAttributes, refuse_unknown
from .group_attention import GroupAttention
from .mambair_forms import accept_any_form
from .official import accept_official_names
from .vmamba_layers import ScanNames

BLOCK_NORM = partial(nn.LayerNorm, eps=1e-6)
"""The first norm of a bare block; in models it has the usual 1e-5."""
_SCAN = dict(
    dt_rank="dt_rank", d_conv="d_conv", dt_min="dt_min", dt_max="dt_max", dt_init="dt_init", dt_scale="dt_scale",
    dt_init_floor="dt_floor", conv_bias="conv_bias", bias="proj_bias",
)  # fmt: skip
WITHOUT_EFFECT = ("input_resolution",)
"""What their layers pass on, and the ``**kwargs`` of their SS2D swallow."""


def _scan_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of their arguments of SS2D that differ only in name -> ours."""
    options = {ours: given[theirs] for theirs, ours in _SCAN.items() if theirs in given}
    if options.get("dt_rank") == "auto":
        options["dt_rank"] = None
    return {**options, "gate": "act"}


class ChannelAttention(restoration.ChannelAttention):
    """Channel attention of maps ``(B, C, H, W)``.

    Raises:
        ValueError: There are fewer channels than ``squeeze_factor``.
    """

    def __init__(self, num_feat: int, squeeze_factor: int = 16) -> None:
        super().__init__(num_feat, squeeze_factor)
        accept_any_form(self)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)``, scaled."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class CAB(restoration.CAB):
    """The channel-attention block of maps ``(B, C, H, W)``; ``is_light_sr`` is today's light form.

    Raises:
        ValueError: There are fewer channels than ``squeeze_factor``.
    """

    def __init__(
        self, num_feat: int, is_light_sr: bool = False, compress_ratio: int = 3, squeeze_factor: int = 30
    ) -> None:
        super().__init__(num_feat, "light" if is_light_sr else "conv", compress_ratio, squeeze_factor)
        accept_any_form(self)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, C, H, W)``."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Attention(GroupAttention):
    """Attention in groups, with the authors' arguments.

    Raises:
        ValueError: Heads do not divide ``dim``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        position_bias: bool = True,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, qk_scale, position_bias, attn_drop, proj_drop)

    def forward(self, x: Tensor, H: int, W: int, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """As `GroupAttention`, with the authors' argument names."""
        return super().forward(x, H, W, mask)


class SS2D(ScanNames, layers.SS2D):
    """SS2D on maps ``(B, H, W, C)`` with the authors' arguments; ``input_resolution`` has no effect, as in theirs.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 3,
        expand: float = 2.0,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        dropout: float = 0.0,
        conv_bias: bool = True,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        scan = _scan_options(locals())
        refuse_unknown("SS2D", kwargs, WITHOUT_EFFECT)
        super().__init__(d_model, d_state, expand, drop_rate=dropout, **scan, device=device, dtype=dtype)
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner, self.dt_rank = self.ssm.dim, self.ssm.dt_rank
        accept_official_names(self)


class VSSBlock(OfficialAttributes, restoration.RestorationBlock):
    """The residual state-space block on tokens, with the authors' arguments; further ones are `SS2D`'s.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    self_attention, conv_blk = Alias("ss2d"), Alias("cab")
    ln_1, ln_2, skip_scale, skip_scale2 = Alias("norm1"), Alias("norm2"), Alias("skip1"), Alias("skip2")

    def __init__(
        self,
        hidden_dim: int = 0,
        drop_path: float = 0,
        norm_layer: Callable[..., nn.Module] = BLOCK_NORM,
        attn_drop_rate: float = 0,
        d_state: int = 16,
        expand: float = 2.0,
        is_light_sr: bool = False,
        **kwargs: Any,
    ) -> None:
        refuse_unknown("VSSBlock", kwargs, (*_SCAN, *WITHOUT_EFFECT, "device", "dtype"))
        norm = norm_layer(hidden_dim)
        if not isinstance(norm, nn.LayerNorm):
            raise ValueError(f"norm_layer: expected a LayerNorm, got {norm_layer!r}")
        super().__init__(
            hidden_dim, d_state, expand, "light" if is_light_sr else "conv", norm.eps, attn_drop_rate, drop_path,
            _scan_options(kwargs), device=kwargs.get("device"), dtype=kwargs.get("dtype"),
        )  # fmt: skip
        accept_any_form(self)

    def forward(self, input: Tensor, x_size: Sequence[int]) -> Tensor:  # type: ignore[override]
        """Tokens ``(B, H W, C)`` of an ``x_size = (H, W)`` map -> the same."""
        return super().forward(input.unflatten(1, tuple(x_size))).flatten(1, 2)


class PatchEmbed(nn.Module):
    """A map as tokens, normalised; the sizes only fill in ``patches_resolution`` and ``num_patches``.

    Args:
        img_size, patch_size: One number or two.
        in_chans: Kept as an attribute.
        embed_dim: Width of the norm.
        norm_layer: Makes the norm of a width; ``None`` for none.
    """

    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        patch_size: int | Sequence[int] = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.img_size, self.patch_size = to_2tuple(img_size), to_2tuple(patch_size)
        self.patches_resolution = [
            side // step for side, step in zip(self.img_size, self.patch_size, strict=True)
        ]
        self.num_patches = self.patches_resolution[0] * self.patches_resolution[1]
        self.in_chans, self.embed_dim = in_chans, embed_dim
        self.norm = None if norm_layer is None else norm_layer(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, H W, C)``."""
        tokens = x.flatten(2).transpose(1, 2)
        return tokens if self.norm is None else self.norm(tokens)


class PatchUnEmbed(PatchEmbed):
    """Tokens as a map; ``norm_layer`` has no effect."""

    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        patch_size: int | Sequence[int] = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__(img_size, patch_size, in_chans, embed_dim, None)

    def forward(self, x: Tensor, x_size: Sequence[int]) -> Tensor:  # type: ignore[override]
        """Tokens ``(B, H W, C)`` of an ``x_size = (H, W)`` map -> ``(B, C, H, W)``."""
        return x.transpose(1, 2).unflatten(2, tuple(x_size))


class Upsample(nn.Sequential):
    """Convolutions, each with a pixel shuffle (Shi et al. 2016), up to ``scale``: a power of two, or 3.

    Raises:
        ValueError: it is another number.
    """

    def __init__(self, scale: int, num_feat: int) -> None:
        if scale != 3 and (scale < 1 or scale & (scale - 1)):
            raise ValueError(f"scale: expected a power of two or 3, got {scale}")
        steps = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
        parts: list[nn.Module] = []
        for step in steps:
            parts += [nn.Conv2d(num_feat, step * step * num_feat, 3, padding=1), nn.PixelShuffle(step)]
        super().__init__(*parts)


class UpsampleOneStep(nn.Sequential):
    """One convolution to ``num_out_ch`` channels and a pixel shuffle; ``input_resolution`` has no effect."""

    def __init__(
        self, scale: int, num_feat: int, num_out_ch: int, input_resolution: Sequence[int] | None = None
    ) -> None:
        conv = nn.Conv2d(num_feat, scale * scale * num_out_ch, 3, padding=1)
        super().__init__(conv, nn.PixelShuffle(scale))
        self.num_feat = num_feat
