"""Swin-UMamba: VMamba's first release as the encoder, and a decoder of convolutions, or (D) of VMamba's blocks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vimzoo.layers import MapExpand
from vimzoo.layers.norm import InstanceNorm2d

from ..segmentation_base import SegmentationModel
from ..vmamba.first_release import (
    blocks,
    check_encoder,
    drop_rates,
    encoder_tensors,
    init_linears,
    widths_of,
)
from ..weights.contents import bare
from ..weights.dialect import Dialect
from .layers import NORMS, ConvBlock, UpBlock, VSSEncoder, init_convs
from .names import is_official, slots, spell

__all__ = ["SWIN_UMAMBA", "SwinUMamba", "SwinUMambaD", "checkpoint_filter_fn"]


class _SwinUMamba(SegmentationModel):
    """What both have: the encoder's weights, heads of several resolutions, and how parameters are ordered.

    Attributes:
        encoder: The encoder.
        first: Tensors of the encoder's stem that are taken from a VMamba.
        head: The last layer at the finest resolution.
        side_heads: The last layers at the coarser ones, the finest first; trained by deep supervision only.
    """

    encoder: VSSEncoder
    first: tuple[str, ...] = ()
    head: nn.Conv2d
    side_heads: nn.ModuleList

    def _build_heads(self, widths: Sequence[int], drop_rate: float, deep_supervision: bool) -> None:
        """Heads for maps of these widths, the finest first."""
        self.num_features = widths[0]
        self.head_drop = nn.Dropout2d(drop_rate)
        self.head = nn.Conv2d(widths[0], self.num_classes, 1)
        self.side_heads = nn.ModuleList(nn.Conv2d(width, self.num_classes, 1) for width in widths[1:])
        self.set_deep_supervision(deep_supervision)

    def set_deep_supervision(self, enable: bool = True) -> None:
        """See `SegmentationModel`; without it the heads of coarser maps are not trained."""
        self.deep_supervision = enable
        self.side_heads.requires_grad_(enable)

    def decoded(self, x: Tensor) -> list[Tensor]:
        """Images -> the maps (B, C, H, W) that the heads read, the finest first."""
        raise NotImplementedError

    def scores(self, x: Tensor) -> Tensor:
        """See `SegmentationModel`."""
        return self.head(self.head_drop(self.decoded(x)[0]))

    def level_scores(self, x: Tensor) -> list[Tensor]:
        """See `SegmentationModel`."""
        heads = [self.head, *self.side_heads]
        return [head(self.head_drop(y)) for head, y in zip(heads, self.decoded(x), strict=True)]

    @torch.jit.ignore
    def load_encoder(self, path: str | os.PathLike[str] | None = None) -> str:
        """Fill the encoder from a VMamba of the first release, as the authors do with VMamba-T.

        Of the stem that is what their loader takes: all of it where the encoder reads images of three channels, its
        norm's bias alone in `SwinUMamba`, nothing otherwise. Names of VMamba's later releases are taken, too.
        """
        found, source = encoder_tensors(self.encoder, path, "vmamba_tiny_v0")
        own = self.encoder.state_dict()
        found = {n: t for n, t in found.items() if not n.startswith("patch_embed.") or n in self.first}
        wanted = [name for name in own if not name.startswith("patch_embed.") or name in self.first]
        check_encoder(found, own, wanted, source)
        self.encoder.load_state_dict(found, strict=False)
        return f"the encoder, {len(found)} of {len(own)} tensors, from {source}"

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last layer of the finest scores."""
        return self.head

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that order parameters by depth."""
        return dict(
            stem=r"^(?:stem|encoder\.patch_embed)",
            blocks=[
                (r"^encoder\.stages\.(\d+)", None),
                (r"^skips", (9000,)),
                (r"^ups\.(\d+)", None),
                (r"^(?:final|head|side_heads)", (99999,)),
            ],
        )

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the encoder's blocks in the backward pass instead of keeping their activations."""
        for stage in self.encoder.stages:
            stage.grad_checkpointing = enable  # type: ignore[assignment]


class SwinUMamba(_SwinUMamba):
    """Swin-UMamba: residual blocks of convolutions on the image, the stem's map and each stage's, joined upwards.

    Args:
        in_chans: Channels of the images.
        num_classes: Classes.
        depths: Blocks of each stage of the encoder.
        dims: Channels of each stage; one number doubles from stage to stage. The stem has half of the first.
        d_state: States per channel.
        norm: Of the convolutions: ``"instance"`` (without parameters) or ``"batch"``.
        residual: Whether blocks of convolutions have shortcuts.
        deep_supervision: In training return scores at 1, 1/2, 1/4, 1/8 of the resolution, in a list.
        window, overlap: As `SegmentationModel.set_window` takes them.
        drop_rate: Dropout before the last layers.
        drop_path_rate: Stochastic depth of the encoder's last block.

    Raises:
        ValueError: a number is not positive, ``depths`` and ``dims`` differ in stages, or there is no such norm.
    """

    first = ("patch_embed.norm1.bias",)

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 2,
        depths: Sequence[int] = (2, 2, 9, 2),
        dims: int | Sequence[int] = 96,
        d_state: int = 16,
        norm: str = "instance",
        residual: bool = True,
        deep_supervision: bool = False,
        window: Sequence[int] | None = None,
        overlap: float = 0.5,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        widths = _checked_widths(depths, dims, num_classes)
        if norm not in NORMS:
            raise ValueError(f"norm={norm!r}: expected one of {', '.join(NORMS)}")
        self.num_classes, self.in_chans = num_classes, in_chans
        self.multiple_of = 4 * 2 ** (len(widths) - 1)
        self.set_window(window, overlap)
        narrow = max(1, widths[0] // 2)
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, narrow, 7, 2, padding=3), InstanceNorm2d(narrow, affine=True)
        )
        self.encoder = VSSEncoder(narrow, 2, depths, widths, d_state, drop_path_rate=drop_path_rate)
        read, kept = [in_chans, narrow, *widths], [narrow, *widths]
        self.skips = nn.ModuleList(
            ConvBlock(dim, out_dim, norm, residual) for dim, out_dim in zip(read, kept, strict=False)
        )
        below = [widths[-1], *kept[:0:-1]]
        self.ups = nn.ModuleList(
            UpBlock(dim, out_dim, norm, residual) for dim, out_dim in zip(below, reversed(kept), strict=True)
        )
        self.final = ConvBlock(narrow, narrow, norm, residual)
        self._build_heads(kept[:-1], drop_rate, deep_supervision)
        init_linears(self.encoder)
        for part in (self.stem, self.skips, self.ups, self.final, self.head, self.side_heads):
            init_convs(part)

    def decoded(self, x: Tensor) -> list[Tensor]:
        """Images -> the maps that the heads read, the finest first."""
        stem = self.stem(x)
        maps = [x, stem, *self.encoder(stem)]
        skips = [block(y) for block, y in zip(self.skips, maps, strict=False)]
        y, found = maps[-1], []
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            y = up(y, skip)
            found.append(y)
        return [self.final(y), *found[-2:0:-1]]


class UpStage(nn.Module):
    """A step to twice the height and width, joined with the encoder's map of that size, and blocks.

    Args:
        dim: Channels afterwards, which are half of those before, and those of the encoder's map.
        blocks: The blocks.
    """

    def __init__(self, dim: int, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.expand = MapExpand(2 * dim, dim)
        self.join = nn.Linear(2 * dim, dim)
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, H, W, 2 C) and (B, 2 H, 2 W, C) -> (B, 2 H, 2 W, C)."""
        return self.blocks(self.join(torch.cat([self.expand(x), skip], 3)))


class SwinUMambaD(_SwinUMamba):
    """Swin-UMamba-D: the decoder's stages are a linear step upwards and two of VMamba's blocks.

    Args:
        patch_size: Pixels per position of the first map. Scores are four times as large as that map.
        in_chans: Channels of the images.
        num_classes: Classes.
        depths: Blocks of each stage of the encoder.
        dims: Channels of each stage, each twice those before; one number doubles from stage to stage.
        d_state: States per channel of the encoder.
        decoder_d_state: Of each stage of the decoder, the coarsest first; None is as in the encoder.
        stem_norm: Whether the stem has a norm.
        deep_supervision: In training return scores at 1, 1/4, 1/8, 1/16 of the resolution, in a list.
        window, overlap: As `SegmentationModel.set_window` takes them.
        drop_rate: Dropout before the last layers.
        drop_path_rate: Stochastic depth of the encoder's last block.
        decoder_drop_path_rate: Of the decoder's first block; None is as in the encoder.

    Raises:
        ValueError: a number is not positive, the arguments differ in stages, or the channels do not double.
    """

    def __init__(
        self,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 2,
        depths: Sequence[int] = (2, 2, 9, 2),
        dims: int | Sequence[int] = 96,
        d_state: int = 16,
        decoder_d_state: Sequence[int] | None = None,
        stem_norm: bool = True,
        deep_supervision: bool = False,
        window: Sequence[int] | None = None,
        overlap: float = 0.5,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        decoder_drop_path_rate: float | None = None,
    ) -> None:
        super().__init__()
        widths = _checked_widths(depths, dims, num_classes)
        if widths != widths_of(widths[0], depths):
            raise ValueError(f"dims={dims}: expected channels that double from stage to stage")
        states = [d_state] * (len(widths) - 1) if decoder_d_state is None else list(decoder_d_state)
        if len(states) != len(widths) - 1:
            raise ValueError(f"decoder_d_state={states}: expected {len(widths) - 1} numbers")
        self.num_classes, self.in_chans = num_classes, in_chans
        self.multiple_of = patch_size * 2 ** (len(widths) - 1)
        self.set_window(window, overlap)
        self.encoder = VSSEncoder(in_chans, patch_size, depths, widths, d_state, stem_norm, drop_path_rate)
        last = drop_path_rate if decoder_drop_path_rate is None else decoder_drop_path_rate
        rates = drop_rates(last, 2 * len(states))[::-1]
        self.ups = nn.ModuleList(
            UpStage(width, blocks(width, rates[2 * i : 2 * i + 2], states[i]))
            for i, width in enumerate(widths[-2::-1])
        )
        self.final = MapExpand(widths[0], widths[0], 4)
        self._build_heads([widths[0], *widths[:-1]], drop_rate, deep_supervision)
        init_linears(self.encoder)
        for part in (self.encoder, self.ups, self.head, self.side_heads):
            init_convs(part)
        if in_chans == 3:
            self.first = tuple(f"patch_embed.{name}" for name in self.encoder.patch_embed.state_dict())

    def decoded(self, x: Tensor) -> list[Tensor]:
        """Images -> the maps that the heads read, the finest first."""
        maps = [y.permute(0, 2, 3, 1) for y in self.encoder(x)]
        y, found = maps[-1], []
        for up, skip in zip(self.ups, maps[-2::-1], strict=True):
            y = up(y, skip)
            found.append(y)
        return [y.permute(0, 3, 1, 2) for y in (self.final(y), *reversed(found))]


def _checked_widths(depths: Sequence[int], dims: int | Sequence[int], num_classes: int) -> list[int]:
    """Channels of each stage, checked."""
    widths = widths_of(dims, depths)
    if len(depths) < 2 or len(widths) != len(depths) or min(*widths, *depths) < 1:
        raise ValueError(
            f"depths={tuple(depths)}, dims={dims}: expected one positive number per stage each, two stages or more"
        )
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: expected at least 1")
    return widths


SWIN_UMAMBA = Dialect((SwinUMamba, SwinUMambaD), slots, is_official, spell)


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint of ours or the authors', bare or in a wrapper, under our names."""
    state = dict(bare(state_dict))
    return SWIN_UMAMBA.to_native(state, model) if is_official(state) else state


_SwinUMamba.filter_fn = staticmethod(checkpoint_filter_fn)
