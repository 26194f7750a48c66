"""MILA: four stages of linear attention with the parts of a Mamba block; the package registers its variants."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import to_2tuple, trunc_normal_
from torch import nn

from vimzoo.layers import MilaBlock, PositionBlock
from vimzoo.layers.checks import check_sizes

from ..conv_staged import ConvStagedModel
from ..stage_maps import StageMaps
from .names import MILA_NAMES


class MILA(ConvStagedModel):
    """MILA with timm's model contract; any image size, square or not. It has no scan.

    The authors' option names are given in parentheses; `vimzoo.compat.mila.MLLA` takes those.

    Args:
        img_size: Height and width of the images; only a position embedding depends on it.
        in_chans: Channels of the images.
        num_classes: Classes; 0 for no classifier.
        global_pool: ``"avg"``, another pooling of timm's, or ``""`` for none.
        depths: Blocks per stage.
        dims: Channels per stage; one number doubles from stage to stage (``embed_dim``).
        num_heads: Heads of each stage.
        qk_bias: As in `vimzoo.layers.RotaryLinearAttention` (``qkv_bias``).
        mlp_ratio: Hidden width of the MLPs in multiples of the stage's channels.
        pos_embed: Learned position embedding of the first map, resized to other image sizes (``ape``).
        drop_rate: Dropout before the classifier.
        pos_drop_rate, mlp_drop_rate: Dropout of the first map and in the MLPs (``drop_rate``).
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.

    Raises:
        ValueError: an option has no such value, a size is not positive, or there are not as many heads as stages.
    """

    dialect = MILA_NAMES
    block_class: type[MilaBlock] = MilaBlock

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depths: Sequence[int] = (2, 4, 8, 4),
        dims: int | Sequence[int] = 64,
        num_heads: Sequence[int] = (2, 4, 8, 16),
        qk_bias: bool = True,
        mlp_ratio: float = 4.0,
        pos_embed: bool = False,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        mlp_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if len(num_heads) != len(depths):
            raise ValueError(f"num_heads: expected {len(depths)} numbers, one per stage, got {num_heads}")
        block = dict(qk_bias=qk_bias, mlp_ratio=mlp_ratio, mlp_drop_rate=mlp_drop_rate)
        super().__init__(
            in_chans, num_classes, global_pool, depths, dims, drop_rate, pos_drop_rate, drop_path_rate,
            [{**block, "num_heads": heads} for heads in num_heads], device, dtype,
        )  # fmt: skip
        if pos_embed:
            height, width = (side // self.patch_embed.patch_size for side in to_2tuple(img_size))
            check_sizes(img_size=min(height, width))
            positions = torch.empty(1, self.embed_dim, height, width, device=device, dtype=dtype)
            self.pos_embed = nn.Parameter(trunc_normal_(positions, std=0.02))

    def new_block(self, stage: int, dim: int, **options: Any) -> PositionBlock:
        """A `MilaBlock`."""
        return self.block_class(dim, **options)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Patterns of parameters without weight decay, beyond vectors."""
        return set() if self.pos_embed is None else {"pos_embed"}


class MILADense(StageMaps, MILA):
    """A MILA that returns maps of chosen stages, as `StageMaps` does.

    Args:
        out_indices: Stages whose maps are returned.
        **kwargs: As `MILA` takes them.

    Raises:
        ValueError: an option has no such value, or there is no such stage.
    """

    def __init__(self, out_indices: Sequence[int] = (0, 1, 2, 3), **kwargs: Any) -> None:
        super().__init__(num_classes=0, global_pool="", **kwargs)
        dd: dict[str, Any] = {key: kwargs.get(key) for key in ("device", "dtype")}
        self.keep_maps(out_indices, lambda width: nn.LayerNorm(width, **dd))
