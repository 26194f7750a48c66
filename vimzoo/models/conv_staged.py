"""What MILA and Spatial-Mamba share: convolutions in and between stages of `vimzoo.layers.PositionBlock`."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers import calculate_drop_path_rates, trunc_normal_
from torch import Tensor, nn

from vimzoo.layers import ExpandingDownsample, PositionBlock, ResidualStem
from vimzoo.layers.checks import check_rates

from .initial import reset_layers
from .map_positions import MapPositions
from .staged import Stage, checked_widths

__all__ = ["ConvStagedModel"]


class ConvStagedModel(MapPositions):
    """`ResidualStem`, stages of blocks that begin with an `ExpandingDownsample`, a norm and a head; any image size.

    A family defines ``dialect`` and `new_block`.

    Args:
        in_chans: Channels of the images.
        num_classes: Classes; 0 for no classifier.
        global_pool: A pooling of timm's, or ``""`` for none.
        depths: Blocks per stage.
        dims: Channels per stage; one number doubles from stage to stage.
        drop_rate: Dropout before the classifier.
        pos_drop_rate: Dropout of the first map.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.
        block: Further keyword arguments of `new_block`, for each stage.

    Raises:
        ValueError: an option has no such value, or a size is not positive.
    """

    def __init__(
        self,
        in_chans: int,
        num_classes: int,
        global_pool: str,
        depths: Sequence[int],
        dims: int | Sequence[int],
        drop_rate: float,
        pos_drop_rate: float,
        drop_path_rate: float,
        block: Sequence[Mapping[str, Any]],
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_rates(drop_rate=drop_rate, pos_drop_rate=pos_drop_rate, drop_path_rate=drop_path_rate)
        widths = checked_widths(dims, depths)
        self.in_chans = in_chans
        self.embed_dim = widths[0]
        self.patch_embed = ResidualStem(in_chans, widths[0], **dd)
        self.pos_embed = None
        self.pos_drop = nn.Dropout(pos_drop_rate)
        self.feature_info = [
            dict(num_chs=dim, reduction=self.patch_embed.patch_size * 2**i, module=f"stages.{i}")
            for i, dim in enumerate(widths)
        ]
        rates: Any = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        self.stages = nn.Sequential()
        for i, dim in enumerate(widths):
            down = ExpandingDownsample(widths[i - 1], dim, **dd) if i > 0 else nn.Identity()
            blocks = [
                self.new_block(i, dim, drop_path=next(rates), **block[i], **dd) for _ in range(depths[i])
            ]
            self.stages.append(Stage(down, blocks))
        self.norm: nn.Module = nn.LayerNorm(widths[-1], **dd)
        self.add_head(num_classes, global_pool, drop_rate, dd)
        ConvStagedModel.init_weights(
            self, needs_reset=False
        )  # OpenMMLab's base class has another of this name

    def new_block(self, stage: int, dim: int, **options: Any) -> PositionBlock:
        """A block of ``dim`` channels for a stage."""
        raise NotImplementedError

    @torch.jit.ignore
    def init_weights(self, needs_reset: bool = True) -> None:
        """The authors' initialisation.

        Args:
            needs_reset: Reset every layer first (after ``to_empty``); the constructor's have just done so.
        """
        if needs_reset:
            reset_layers(self)
        if self.pos_embed is not None:
            trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                _init_linear(module)

    def _init_head(self) -> None:
        if isinstance(self.head.fc, nn.Linear):
            _init_linear(self.head.fc)

    def _embed(self, x: Tensor) -> Tensor:
        """Images -> the first map, with positions."""
        return self.pos_drop(self._with_positions(self.patch_embed(x)))


def _init_linear(linear: nn.Linear) -> None:
    trunc_normal_(linear.weight, std=0.02)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
