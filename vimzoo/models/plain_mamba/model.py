"""PlainMamba: blocks of one width on a map, read along continuous paths; the package registers its variants."""

import os
from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from timm.layers import calculate_drop_path_rates, trunc_normal_
from timm.models import checkpoint
from torch import Tensor, nn

from vimzoo.layers import PlainMambaBlock
from vimzoo.layers.checks import check_rates, check_sizes
from vimzoo.layers.plain import apply_norm

from .._timm import update_model_input_size
from ..export_options import ExportOptions
from ..initial import reset_layers
from ..map_model import MapModel
from ..tokens import resize_pos_embed
from ..weights.grids import GridModel
from ..weights.loading import load_into
from .names import PLAIN_MAMBA, checkpoint_filter_fn
from .stem import ConvStem


class PlainMamba(GridModel, MapModel):
    """PlainMamba with timm's model contract; any image size.

    The authors' option names are given in parentheses; `vimzoo.compat.plain_mamba.PlainMamba` takes those.

    Args:
        img_size: Height and width of the images that the position embedding belongs to; it is resized for others.
        patch_size: Pixels per position of the map.
        in_chans: Channels of the images (``in_channels``).
        num_classes: Classes; 0 for no classifier.
        global_pool: ``"avg"``, another pooling of timm's, or ``""`` for none.
        embed_dim, depth: Width and number of blocks (``embed_dims``, ``num_layers``).
        stem_convs: Convolutions of the stem beside its first (``num_convs_patch_embed``).
        dw_blocks: Blocks that end with a depthwise convolution (``layers_with_dwconv``).
        pos_embed: Learned position embedding (``with_pos_embed``).
        d_state, d_conv, expand, dt_rank, conv_bias, proj_bias, layer_scale: As in `vimzoo.layers.SnakeSS2D`
            (``mamba_cfg``).
        norm: ``"layer"`` or ``"rms"``, of the blocks (``use_rms_norm``).
        drop_rate: Dropout before the classifier.
        pos_drop_rate: Dropout after the position embedding (``drop_rate``).
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.

    Raises:
        ValueError: an option has no such value, or a size is not positive.
    """

    export_options = ExportOptions(one_size=True)
    dialect = PLAIN_MAMBA
    parts = "blocks"
    _keep_in_fp32_modules_strict = (
        "A_log",
    )  # asked for by transformers when it loads in bfloat16 or float16

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dim: int = 192,
        depth: int = 24,
        stem_convs: int = 1,
        dw_blocks: Collection[int] = (),
        pos_embed: bool = True,
        d_state: int = 16,
        d_conv: int = 7,
        expand: float = 2,
        dt_rank: int | None = None,
        conv_bias: bool = True,
        proj_bias: bool = True,
        layer_scale: float | None = None,
        norm: str = "layer",
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(embed_dim=embed_dim, depth=depth)
        check_rates(drop_rate=drop_rate, pos_drop_rate=pos_drop_rate, drop_path_rate=drop_path_rate)
        if not all(i in range(depth) for i in dw_blocks):
            raise ValueError(f"dw_blocks: expected blocks in 0..{depth - 1}, got {tuple(dw_blocks)}")
        self.in_chans = in_chans
        self.embed_dim = embed_dim
        self.grad_checkpointing = False
        self.feature_info = [
            dict(module=f"blocks.{i}", num_chs=embed_dim, reduction=patch_size) for i in range(depth)
        ]
        self.patch_embed = ConvStem(img_size, patch_size, in_chans, embed_dim, stem_convs, **dd)
        rows, columns = self.patch_embed.grid_size
        self.pos_embed = nn.Parameter(torch.empty(1, rows * columns, embed_dim, **dd)) if pos_embed else None
        self.pos_drop = nn.Dropout(pos_drop_rate)
        mixer = dict(
            d_state=d_state, d_conv=d_conv, expand=expand, dt_rank=dt_rank, conv_bias=conv_bias, proj_bias=proj_bias,
            layer_scale=layer_scale,
        )  # fmt: skip
        rates: Any = calculate_drop_path_rates(drop_path_rate, depth)
        self.blocks = nn.Sequential(
            *(PlainMambaBlock(embed_dim, i in dw_blocks, rates[i], norm, mixer, **dd) for i in range(depth))
        )
        self.norm: nn.Module = nn.LayerNorm(embed_dim, 1e-6, **dd)
        self.add_head(num_classes, global_pool, drop_rate, dd)
        self.init_weights(needs_reset=False)

    @torch.jit.ignore
    def init_weights(self, needs_reset: bool = True) -> None:
        """The authors' initialisation, which sets all projections of the scans anew, so that all steps start at 0.69.

        Args:
            needs_reset: Reset every layer first (after ``to_empty``); the constructor's have just done so.
        """
        if needs_reset:
            reset_layers(self)
        if self.pos_embed is not None:
            trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.blocks:
            ssm: Any = block.mixer.ssm  # type: ignore[union-attr]
            trunc_normal_(ssm.x_proj, std=0.02)
            trunc_normal_(ssm.dt_proj, std=0.02)
            nn.init.zeros_(ssm.dt_bias)
        self._init_head()

    def _init_head(self) -> None:
        if isinstance(self.head.fc, nn.Linear):
            nn.init.normal_(self.head.fc.weight, std=0.01)
            nn.init.zeros_(self.head.fc.bias)

    @torch.jit.ignore
    def load_pretrained(
        self,
        checkpoint_path: str | os.PathLike[str],
        prefix: str = "",
        *,
        use_ema: bool | None = None,
        pos_embed_grid: tuple[int, int] | None = None,
    ) -> None:
        """Load a file of ours or the authors'.

        Args:
            checkpoint_path, prefix, use_ema: As `vimzoo.models.weights.loading.load_into` takes them, with its
                errors.
            pos_embed_grid: As `vimzoo.load_checkpoint` takes it.
        """
        filter_fn = partial(checkpoint_filter_fn, pos_embed_grid=pos_embed_grid)
        load_into(self, checkpoint_path, filter_fn, use_ema=use_ema, prefix=prefix)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Patterns of parameters without weight decay, beyond biases and norms, as in official training."""
        return {"pos_embed", "*.ssm.A_log", "*.ssm.D", "*.ssm.dt_bias", "*.moves"}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that order parameters by depth, for layer-wise learning rates."""
        return dict(stem=r"^pos_embed|patch_embed", blocks=[(r"^blocks\.(\d+)", None), (r"^norm", (99999,))])

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def pos_embed_layout(self) -> tuple[tuple[int, int], str, int]:
        """As `GridModel` asks for it."""
        return self.patch_embed.grid_size, "none", 0

    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, patch_size: int | None = None
    ) -> None:
        """Set the image size and resize the position embedding, if there is one.

        Raises:
            ValueError: ``patch_size`` is another than the model's.
        """
        own = self.patch_embed.patch_size
        if patch_size not in (None, own, own[0]):
            raise ValueError(f"patch_size: expected {own[0]}, got {patch_size}")
        if img_size is None:
            return
        old = self.patch_embed.grid_size
        self.patch_embed.set_input_size(img_size)
        if self.pos_embed is not None:
            with torch.no_grad():
                resized = resize_pos_embed(self.pos_embed, old, self.patch_embed.grid_size, "none")
            self.pos_embed = nn.Parameter(resized.detach(), requires_grad=self.pos_embed.requires_grad)
        update_model_input_size(self, self.patch_embed.img_size)

    def _embed(self, x: Tensor) -> Tensor:
        """Images -> the first map, with positions."""
        x = self.patch_embed(x)
        if self.pos_embed is not None:
            grid = (x.shape[1], x.shape[2])
            pos_embed = resize_pos_embed(self.pos_embed, self.patch_embed.grid_size, grid, "none")
            x = x + pos_embed.reshape(1, *grid, -1)
        return self.pos_drop(x)

    @torch.jit.ignore
    def _run(self, part: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(part, x) if self.grad_checkpointing else part(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` -> the last map after its norm, ``(B, h, w, D)``."""
        x = self._embed(x)
        for block in self.blocks:
            x = block(x) if torch.jit.is_scripting() else self._run(block, x)
        return self.norm(x) if torch.jit.is_scripting() else apply_norm(self.norm, x)
