"""VM-UNet: VMamba's first release as the encoder of a U-shaped network, and blocks of the same kind as its decoder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vimzoo.layers import MapExpand, MapStem

from ..segmentation_base import SegmentationModel
from ..vmamba.first_release import (
    blocks,
    check_encoder,
    drop_rates,
    encoder_tensors,
    init_linears,
    stages,
    widths_of,
)
from ..weights.contents import bare
from ..weights.dialect import Dialect
from .names import is_official, slots, spell

__all__ = ["VM_UNET", "VMUNet", "checkpoint_filter_fn"]


class UpStage(nn.Module):
    """Blocks of one resolution of the decoder, after the step to it.

    Args:
        expand: What comes first, if anything.
        blocks: The blocks.
    """

    def __init__(self, expand: nn.Module, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.expand = expand
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H', W', D)."""
        return self.blocks(self.expand(x))


class VMUNet(SegmentationModel):
    """VM-UNet: the maps that the encoder's last three stages begin with are added to the decoder's.

    Args:
        patch_size: Pixels per position of the first map. Scores are four times as large as that map.
        in_chans: Channels of the images; one is repeated three times, as VMamba's weights need.
        num_classes: Classes.
        depths, decoder_depths: Blocks of each stage.
        dims: Channels of each stage of the encoder; one number doubles from stage to stage.
        d_state: States per channel.
        stem_norm: Whether the stem has a norm.
        repeat_grey: False reads images of one channel as they are.
        window, overlap: As `SegmentationModel.set_window` takes them.
        drop_rate: Dropout before the last layer.
        drop_path_rate: Stochastic depth of the encoder's last and the decoder's first block.

    Raises:
        ValueError: a number is not positive, or the two sides differ in stages.
    """

    def __init__(
        self,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 2,
        depths: Sequence[int] = (2, 2, 9, 2),
        decoder_depths: Sequence[int] = (2, 9, 2, 2),
        dims: int | Sequence[int] = 96,
        d_state: int = 16,
        stem_norm: bool = True,
        repeat_grey: bool = True,
        window: Sequence[int] | None = None,
        overlap: float = 0.5,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        widths = widths_of(dims, depths)
        if (
            not len(widths) == len(depths) == len(decoder_depths)
            or min(*widths, *depths, *decoder_depths) < 1
        ):
            raise ValueError(
                f"depths={tuple(depths)}, decoder_depths={tuple(decoder_depths)}, dims={dims}: expected one positive "
                "number per stage each"
            )
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes}: expected at least 1")
        self.num_classes, self.in_chans = num_classes, in_chans
        self.multiple_of = patch_size * 2 ** (len(depths) - 1)
        self.repeats = 3 if in_chans == 1 and repeat_grey else 1
        self.num_features = widths[0] // 4
        self.set_window(window, overlap)
        self.patch_embed = MapStem(
            in_chans * self.repeats, widths[0], patch_size, "patch", "layer" if stem_norm else "none"
        )
        self.stages = stages(widths, depths, d_state, drop_path_rate)
        rates = drop_rates(drop_path_rate, sum(decoder_depths))[::-1]
        self.up_stages = nn.ModuleList()
        for i, width in enumerate(reversed(widths)):
            expand = MapExpand(widths[-i], width) if i else nn.Identity()
            first = sum(decoder_depths[:i])
            last = first + decoder_depths[i]
            self.up_stages.append(UpStage(expand, blocks(width, rates[first:last], d_state)))
        self.final = MapExpand(widths[0], widths[0] // 4, 4)
        self.head_drop = nn.Dropout2d(drop_rate)
        self.head = nn.Conv2d(widths[0] // 4, num_classes, 1)
        init_linears(self)

    def scores(self, x: Tensor) -> Tensor:
        """See `SegmentationModel`."""
        x = self.patch_embed(x.repeat(1, self.repeats, 1, 1) if self.repeats > 1 else x)
        begun: list[Tensor] = []
        for stage in self.stages:
            x = stage.downsample(x)  # type: ignore[operator, union-attr]
            begun.append(x)
            x = stage.blocks(x)  # type: ignore[operator, union-attr]
        for i, up in enumerate(self.up_stages):
            x = up(x + begun[-i] if i else x)
        return self.head(self.head_drop(self.final(x).permute(0, 3, 1, 2)))

    @torch.jit.ignore
    def load_encoder(self, path: str | os.PathLike[str] | None = None) -> str:
        """Fill the encoder from a VMamba of the first release, and the decoder with copies, as the authors do.

        Decoder stage ``i`` takes the blocks of encoder stage ``3 - i``, as far as there are as many. Names of VMamba's
        later releases are taken, too; the authors' loader leaves all blocks as they are then, and says nothing.
        """
        found, source = encoder_tensors(self, path, "vmamba_small_v0")
        found = {name: tensor for name, tensor in found.items() if not name.startswith("head.")}
        own = self.state_dict()
        last = len(self.stages) - 1
        for name, tensor in list(found.items()):
            if match := re.match(r"stages\.(\d+)\.(blocks\..+)", name):
                copy = f"up_stages.{last - int(match[1])}.{match[2]}"
                if copy in own:
                    found[copy] = tensor
        encoder = [name for name in own if name.startswith(("stages.", "patch_embed."))]
        check_encoder(found, own, encoder, source)
        self.load_state_dict(found, strict=False)
        return f"the encoder and copies of its blocks in the decoder, {len(found)} of {len(own)} tensors, from {source}"

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Patterns of parameters without weight decay, beyond vectors; as in VMamba."""
        return {"*.ssm.D"}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that order parameters by depth."""
        return dict(
            stem=r"^patch_embed", blocks=[(r"^(?:up_)?stages\.(\d+)", None), (r"^(?:final|head)", (99999,))]
        )


VM_UNET = Dialect((VMUNet,), slots, is_official, spell)


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint of ours or the authors', bare or in a wrapper, under our names."""
    state = dict(bare(state_dict))
    return VM_UNET.to_native(state, model) if is_official(state) else state


VMUNet.filter_fn = staticmethod(checkpoint_filter_fn)
