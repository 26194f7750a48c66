"""Spatial-Mamba: four stages whose scans' states are fused with their neighbours'; the package registers them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from vimzoo.layers import PositionBlock, SpatialBlock

from ..conv_staged import ConvStagedModel
from ..stage_maps import StageMaps
from .names import SPATIAL_MAMBA


class SpatialMamba(ConvStagedModel):
    """Spatial-Mamba with timm's model contract; any image size.

    The authors' option names are given in parentheses; `vimzoo.compat.spatial_mamba.SpatialMamba` takes those.

    Args:
        in_chans: Channels of the images.
        num_classes: Classes; 0 for no classifier.
        global_pool: ``"avg"``, another pooling of timm's, or ``""`` for none.
        depths: Blocks per stage.
        dims: Channels per stage; one number doubles from stage to stage.
        ratio, dt_rank, dt_init: As in `vimzoo.layers.SpatialSS2D`.
        mlp_ratio: Hidden width of the MLPs in multiples of the stage's channels.
        drop_rate: Dropout before the classifier.
        pos_drop_rate: Dropout of the first map (``drop_rate``).
        ssm_drop_rate: Dropout of the mixers' outputs (``attn_drop_rate``).
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.

    Raises:
        ValueError: an option has no such value, or a size is not positive.
    """

    dialect = SPATIAL_MAMBA
    block_class: type[SpatialBlock] = SpatialBlock

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depths: Sequence[int] = (2, 4, 8, 4),
        dims: int | Sequence[int] = 64,
        ratio: float = 2.0,
        dt_rank: int | None = None,
        dt_init: str = "random",
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        ssm_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        block = dict(
            ratio=ratio, dt_rank=dt_rank, dt_init=dt_init, ssm_drop_rate=ssm_drop_rate, mlp_ratio=mlp_ratio
        )
        super().__init__(
            in_chans, num_classes, global_pool, depths, dims, drop_rate, pos_drop_rate, drop_path_rate,
            [block] * len(depths), device, dtype,
        )  # fmt: skip

    def new_block(self, stage: int, dim: int, **options: Any) -> PositionBlock:
        """A `SpatialBlock`."""
        return self.block_class(dim, **options)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Patterns of parameters without weight decay, beyond vectors: those that are vectors in the authors' code."""
        return {"*.ssm.D", "*.ssm.dt_bias"}


class SpatialMambaDense(StageMaps, SpatialMamba):
    """A SpatialMamba that returns maps of chosen stages, as `StageMaps` does.

    Args:
        out_indices: Stages whose maps are returned.
        **kwargs: As `SpatialMamba` takes them.

    Raises:
        ValueError: an option has no such value, or there is no such stage.
    """

    def __init__(self, out_indices: Sequence[int] = (0, 1, 2, 3), **kwargs: Any) -> None:
        super().__init__(num_classes=0, global_pool="", **kwargs)
        dd: dict[str, Any] = {key: kwargs.get(key) for key in ("device", "dtype")}
        self.keep_maps(out_indices, lambda width: nn.LayerNorm(width, **dd))
