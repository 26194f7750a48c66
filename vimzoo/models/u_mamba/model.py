"""U-Mamba: nnU-Net's residual U-net with Mamba mixers, for maps and for volumes (Ma et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import calculate_drop_path_rates
from torch import Tensor, nn

from vimzoo.layers.checks import check_choice, check_rates, check_sizes
from vimzoo.layers.grid_mamba import GridMamba
from vimzoo.layers.residual_convs import CONVS, ResidualConvs, check_axes, per_axis
from vimzoo.ops.runtime.library import is_eager

from ..segmentation_base import SegmentationModel
from ..weights.contents import bare
from ..weights.dialect import Dialect
from .names import is_official, slots, spell

__all__ = ["U_MAMBA", "UMamba", "checkpoint_filter_fn"]


class UMamba(SegmentationModel):
    """U-Mamba: a residual encoder, Mamba on its maps, and a residual decoder.

    Args:
        in_chans: Channels of the images.
        num_classes: Classes.
        dims: Channels of each stage.
        mamba: ``"bottleneck"`` (U-Mamba_Bot): once, on the coarsest map. ``"encoder"`` (U-Mamba_Enc): on the coarsest
            map and on every second stage above it; in volumes on every stage. The output replaces the map.
        axes: 2 for images (B, C, H, W), 3 for volumes (B, C, D, H, W).
        strides: Step to each stage, one number or one per axis; by default 1 and then 2.
        kernel_sizes: Of the convolutions of each stage, likewise; 3 by default.
        depths: Residual blocks of each stage; by default 2 in the upper half, and 1 below.
        decoder_depths: The same from the coarsest stage of the decoder to the finest; by default 2, and 1 at the end.
        img_size: Height and width of the images, ``mamba="encoder"`` needs it: mixers of maps with no more positions
            than channels take the channels as tokens, so that the size of the images is fixed. None takes positions
            as tokens everywhere, for images of any size.
        deep_supervision: Heads on all stages of the decoder, whose scores are returned in training.
        window, overlap: As `SegmentationModel.set_window` takes them.
        d_state: States per channel.
        drop_rate: Dropout before the last layers.
        drop_path_rate: Stochastic depth of the encoder's last block; it rises from 0 at the first.

    Raises:
        ValueError: a number is not positive, a rate is outside 0..1, an option is unknown, or the lists differ
            in length.
    """

    export_options = replace(SegmentationModel.export_options, bound=1e-3)
    """Instance norms sum whole maps, and the authors' own networks are up to 7e-4 from float64."""

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 2,
        dims: Sequence[int] = (32, 64, 128, 256, 512, 512, 512),
        mamba: str = "bottleneck",
        axes: int = 2,
        strides: Sequence[int | Sequence[int]] | None = None,
        kernel_sizes: Sequence[int | Sequence[int]] | None = None,
        depths: Sequence[int] | None = None,
        decoder_depths: Sequence[int] | None = None,
        img_size: int | Sequence[int] | None = None,
        deep_supervision: bool = False,
        window: Sequence[int] | None = None,
        overlap: float = 0.5,
        d_state: int = 16,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(in_chans=in_chans, num_classes=num_classes, d_state=d_state)
        check_rates(drop_rate=drop_rate, drop_path_rate=drop_path_rate)
        check_axes(axes)
        check_choice(("bottleneck", "encoder"), mamba=mamba)
        count = len(dims)
        if count < 2:
            raise ValueError(f"dims: expected at least 2 stages, got {count}")
        lists: dict[str, tuple[Any, int]] = {
            "strides": (strides or [1] + [2] * (count - 1), count),
            "kernel_sizes": (kernel_sizes or [3] * count, count),
            "depths": (depths or default_depths(count), count),
            "decoder_depths": (decoder_depths or default_decoder_depths(count), count - 1),
        }
        for name, (values, length) in lists.items():
            if len(values) != length:
                raise ValueError(f"{name}: expected {length} entries for {count} stages, got {len(values)}")
        for width in dims:
            check_sizes(dims=width)
        steps = [per_axis(step, axes) for step in lists["strides"][0]]
        kernels = [per_axis(size, axes) for size in lists["kernel_sizes"][0]]
        self.num_classes, self.in_chans, self.num_features = num_classes, in_chans, dims[0]
        self.axes, self.mamba, self.deep_supervision = axes, mamba, deep_supervision
        whole = [math.prod(step[axis] for step in steps) for axis in range(axes)]
        self.multiple_of, self.single = max(whole), min(whole) == max(whole)
        self.img_size = None if img_size is None else per_axis(img_size, axes)
        if axes == 2:
            self.set_window(window, overlap)
        elif window is not None:
            raise ValueError(f"window: expected None for volumes, got {tuple(window)}")
        kinds: dict[str, Any] = {"axes": axes}
        counts = [lists["depths"][0][0], *lists["depths"][0]]  # of the blocks of the stem and the stages
        rates = iter(calculate_drop_path_rates(drop_path_rate, sum(counts)))
        of_blocks = [[float(next(rates, 0.0)) for _ in range(count)] for count in counts]  # type: ignore[arg-type]
        self.stem = _blocks(in_chans, dims[0], counts[0], 1, kernels[0], kinds, of_blocks[0])
        self.stages, self.mixers = nn.ModuleList(), nn.ModuleList()
        size = self.img_size
        for i, width in enumerate(dims):
            before = dims[max(i - 1, 0)]
            self.stages.append(
                _blocks(before, width, counts[i + 1], steps[i], kernels[i], kinds, of_blocks[i + 1])
            )
            size = None if size is None else tuple(s // step for s, step in zip(size, steps[i], strict=True))
            if i == count - 1 or (mamba == "encoder" and (axes == 3 or (count - 1 - i) % 2 == 0)):
                positions = 0 if size is None or mamba == "bottleneck" else math.prod(size)
                channels = 0 < positions <= width
                mixer: nn.Module = GridMamba(
                    positions if channels else width, residual=False, channel_tokens=channels,
                    mixer_args={"d_state": d_state},
                )  # fmt: skip
            else:
                mixer = nn.Identity()
            self.mixers.append(mixer)
        self.ups, self.up_stages = nn.ModuleList(), nn.ModuleList()
        self.scales: list[list[float]] = [[float(s) for s in step] for step in reversed(steps[1:])]
        for j in range(count - 1):
            below, width = dims[count - 1 - j], dims[count - 2 - j]
            joined = width if axes == 2 and j == count - 2 else 2 * width
            self.ups.append(CONVS[axes](below, width, 1))
            depth = lists["decoder_depths"][0][j]
            self.up_stages.append(_blocks(joined, width, depth, 1, kernels[count - 1 - j], kinds))
        self.head_drop = (nn.Dropout2d if axes == 2 else nn.Dropout3d)(drop_rate)
        self.head = CONVS[axes](dims[0], num_classes, 1)
        coarser = reversed(dims[1:-1]) if deep_supervision else ()
        self.deep_heads = nn.ModuleList(CONVS[axes](width, num_classes, 1) for width in coarser)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, a=1e-2)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def _padded(self, x: Tensor) -> Tensor:
        if is_eager(x) and max(x.shape[2:]) <= self.multiple_of and self.single:
            raise ValueError(
                f"x: expected {'images' if self.axes == 2 else 'volumes'} with a side above {self.multiple_of} pixels, "
                f"got {' x '.join(map(str, x.shape[2:]))}; instance norms of one position would leave nothing"
            )
        return super()._padded(x)

    def features(self, x: Tensor) -> list[Tensor]:
        """Images -> a map of each stage of the decoder, the coarsest first."""
        x = self.stem(x)
        maps: list[Tensor] = []
        for stage, mixer in zip(self.stages, self.mixers, strict=True):
            x = mixer(stage(x))
            maps.append(x)
        maps.pop()
        found: list[Tensor] = []
        for j, (up, stage) in enumerate(zip(self.ups, self.up_stages, strict=True)):
            x = F.interpolate(up(x), scale_factor=self.scales[j], mode="nearest")
            skip = maps.pop()
            if self.axes == 3 or len(maps) > 0:  # the finest maps of images are not joined
                x = torch.cat([x, skip], 1)
            x = stage(x)
            found.append(x)
        return found

    def scores(self, x: Tensor) -> Tensor:
        """See `SegmentationModel`."""
        return self.head(self.head_drop(self.features(x)[-1]))

    def level_scores(self, x: Tensor) -> list[Tensor]:
        """See `SegmentationModel`."""
        maps = self.features(x)
        found = [self.head(self.head_drop(maps[-1]))]
        for j, head in enumerate(self.deep_heads):
            found.insert(1, head(self.head_drop(maps[j])))
        return found

    @torch.jit.ignore
    def set_deep_supervision(self, enable: bool = True) -> None:
        """See `SegmentationModel`; the heads must have been built.

        Raises:
            ValueError: they have not.
        """
        if enable and not len(self.deep_heads):
            raise ValueError("deep_supervision: expected a network that was built with deep_supervision=True")
        self.deep_supervision = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Patterns of parameters without weight decay, beyond vectors."""
        return {"*.ssm.D", "*.ssm.A_log"}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that order parameters by depth."""
        return dict(
            stem=r"^stem",
            blocks=[(r"^(?:stages|mixers)\.(\d+)", None), (r"^(?:ups|up_stages|deep_heads|head)", (99999,))],
        )


def default_depths(stages: int) -> list[int]:
    """Blocks of the encoder's stages: 2 in the upper half, 1 below."""
    return [2 if i < math.ceil(stages / 2) else 1 for i in range(stages)]


def default_decoder_depths(stages: int) -> list[int]:
    """Blocks of the decoder's stages: 2, and 1 in the second half less half a stage."""
    count = stages - 1
    return [2 if j < math.ceil(count / 2 + 0.5) else 1 for j in range(count)]


def _blocks(
    dim: int,
    out_dim: int,
    depth: int,
    stride: Any,
    kernel_size: Any,
    options: Mapping[str, Any],
    drop_path: Sequence[float] | None = None,
) -> nn.Sequential:
    check_sizes(depths=depth)
    rates = drop_path or [0.0] * depth
    first = ResidualConvs(dim, out_dim, kernel_size=kernel_size, stride=stride, drop_path=rates[0], **options)
    others = [
        ResidualConvs(out_dim, out_dim, kernel_size=kernel_size, shortcut="none", drop_path=rate, **options)
        for rate in rates[1:]
    ]
    return nn.Sequential(first, *others)


U_MAMBA = Dialect((UMamba,), slots, is_official, spell)


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint of ours or the authors', bare or in a wrapper, under our names, without heads the model lacks."""
    state = dict(bare(state_dict))
    if is_official(state):
        state = U_MAMBA.to_native(state, model)
    own = model.state_dict()
    return {
        name: value
        for name, value in state.items()
        if name in own or not name.startswith(("deep_heads.", "decoder.seg_layers."))
    }


UMamba.filter_fn = staticmethod(checkpoint_filter_fn)
