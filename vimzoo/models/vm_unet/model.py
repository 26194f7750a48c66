"""VM-UNet: VMamba's first release as the encoder of a U-shaped network, and blocks of the same kind as its decoder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from timm.layers import calculate_drop_path_rates, trunc_normal_
from torch import Tensor, nn

from vimzoo.layers import MapDownsample, MapStem, VSSBlock
from vimzoo.layers.maps import map_norm

from ..segmentation_base import SegmentationModel
from ..staged import Stage
from ..weights.contents import bare
from ..weights.dialect import Dialect
from ..weights.loading import CheckpointError
from ..weights.reader import read_tensors
from .names import is_official, slots, spell

__all__ = ["VM_UNET", "PatchExpand", "VMUNet", "checkpoint_filter_fn"]


class PatchExpand(nn.Module):
    """A map to one of ``factor`` times the height and width: a linear layer whose output is spread, and a norm.

    Args:
        dim, out_dim: Channels before and after.
        factor: Positions per position and axis.
    """

    def __init__(self, dim: int, out_dim: int, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.proj = nn.Linear(dim, factor * factor * out_dim, bias=False)
        self.norm = map_norm("layer", out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, factor H, factor W, D)."""
        x = self.proj(x)
        x = x.unflatten(3, (self.factor, self.factor, -1)).permute(0, 1, 3, 2, 4, 5)
        return self.norm(x.flatten(3, 4).flatten(1, 2))


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
        widths = [dims * 2**i for i in range(len(depths))] if isinstance(dims, int) else list(dims)
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
        kind: dict[str, Any] = dict(
            d_state=d_state, ratio=2.0, conv_bias=True, gate="act", mlp_ratio=0.0, norm="layer"
        )
        rates = iter(_rates(drop_path_rate, sum(depths)))
        self.stages = nn.Sequential()
        for i, width in enumerate(widths):
            down = MapDownsample(widths[i - 1], width, "merge", "layer") if i else nn.Identity()
            blocks = [VSSBlock(width, drop_path=next(rates), **kind) for _ in range(depths[i])]
            self.stages.append(Stage(down, blocks))
        rates = iter(_rates(drop_path_rate, sum(decoder_depths))[::-1])
        self.up_stages = nn.ModuleList()
        for i, width in enumerate(reversed(widths)):
            expand = PatchExpand(widths[-i], width) if i else nn.Identity()
            blocks = [VSSBlock(width, drop_path=next(rates), **kind) for _ in range(decoder_depths[i])]
            self.up_stages.append(UpStage(expand, blocks))
        self.final = PatchExpand(widths[0], widths[0] // 4, 4)
        self.head_drop = nn.Dropout2d(drop_rate)
        self.head = nn.Conv2d(widths[0] // 4, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

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
        if path is None:
            tensors: Mapping[str, Tensor] = timm.create_model("vmamba_small_v0", pretrained=True).state_dict()
        else:
            tensors = bare(read_tensors(path))
        own, source = self.state_dict(), str(path or "vmamba_small_v0")
        if is_official(tensors):
            known = {slot.official for slot in slots(self)}
            spelled = {name: tensor for name, tensor in spell(tensors).items() if name in known}
            try:
                tensors = VM_UNET.to_native(spelled, self)
            except ValueError as error:
                raise CheckpointError(f"{source}: {error}") from error
        found = {
            name: tensor for name, tensor in tensors.items() if name in own and not name.startswith("head.")
        }
        last = len(self.stages) - 1
        for name, tensor in list(found.items()):
            if match := re.match(r"stages\.(\d+)\.(blocks\..+)", name):
                copy = f"up_stages.{last - int(match[1])}.{match[2]}"
                if copy in own:
                    found[copy] = tensor
        missing = [name for name in own if name.startswith(("stages.", "patch_embed.")) and name not in found]
        wrong = [name for name, tensor in found.items() if tensor.shape != own[name].shape]
        if missing or wrong:
            raise CheckpointError(
                f"{source}: {len(missing)} tensors of the encoder are missing, {len(wrong)} have another shape: "
                f"{', '.join([*missing, *wrong][:4])}; expected a VMamba of the first release with these widths"
            )
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


def _rates(last: float, count: int) -> list[float]:
    rates: Any = calculate_drop_path_rates(last, count)
    return list(rates)


VM_UNET = Dialect((VMUNet,), slots, is_official, spell)


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint of ours or the authors', bare or in a wrapper, under our names."""
    state = dict(bare(state_dict))
    return VM_UNET.to_native(state, model) if is_official(state) else state


VMUNet.filter_fn = staticmethod(checkpoint_filter_fn)
