"""VMamba: four stages of two-dimensional selective scan; the package registers its variants."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers import calculate_drop_path_rates, to_2tuple, trunc_normal_
from torch import Tensor, nn

from vimzoo.layers import MapDownsample, MapStem, MoE, VSSBlock
from vimzoo.layers.checks import check_choice, check_rates, per_block
from vimzoo.layers.map_embed import DOWNSAMPLES, STEMS
from vimzoo.layers.maps import map_norm
from vimzoo.ops import ScanPath

from ..initial import reset_layers
from ..map_positions import MapPositions
from ..staged import Stage, checked_widths
from .names import VMAMBA, checkpoint_filter_fn

__all__ = ["VMamba", "checkpoint_filter_fn"]


class VMamba(MapPositions):
    """VMamba with timm's model contract; any image size.

    The authors' option names are given in parentheses; `vimzoo.compat.vmamba.VSSM` takes those.

    Args:
        img_size: Height and width of the images; only a position embedding depends on it (``imgsize``).
        patch_size: Pixels per position of the first map.
        in_chans: Channels of the images.
        num_classes: Classes; 0 for no classifier.
        global_pool: ``"avg"``, another pooling of timm's, or ``""`` for none.
        depths: Blocks per stage.
        dims: Channels per stage; one number doubles from stage to stage.
        d_state, ratio, dt_rank, act, d_conv, conv_bias, gate, paths, out_norm, out_act, ssd, init: As in
            `vimzoo.layers.SS2D` (``ssm_d_state``, ``ssm_ratio``, ``ssm_dt_rank``, ``ssm_act_layer``, ``ssm_conv``,
            ``ssm_conv_bias``, ``ssm_init``, and what ``forward_type`` says). ``ratio=0``: no such branch.
        mlp_ratio, mlp_act, mlp_gated, mlp, mlp_args: As in `vimzoo.layers.VSSBlock` (``mlp_act_layer``, ``gmlp``).
        norm: ``"layer"`` or ``"batch"``, of the blocks, the stem and the downsampling (``norm_layer``).
        stem: ``"patch"`` or ``"conv"``, as in `vimzoo.layers.MapStem` (``patchembed_version`` v1, v2).
        stem_norm: Whether the stem has norms (``patch_norm``).
        downsample: ``"merge"``, ``"conv2"`` or ``"conv3"``, as in `vimzoo.layers.MapDownsample`
            (``downsample_version`` v1, v2, v3).
        pos_embed: Learned position embedding of the first map, resized to other image sizes (``posembed``).
        drop_rate: Dropout before the classifier.
        ssm_drop_rate, mlp_drop_rate: Dropout in the blocks' branches.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.
        block_args: Further arguments of the blocks, one mapping per block.

    Raises:
        ValueError: an option has no such value, or a size is not positive.
    """

    dialect = VMAMBA
    authors_head = "classifier.head"
    _keep_in_fp32_modules_strict = (
        "A_log",
    )  # asked for by transformers when it loads in bfloat16 or float16
    block_class: type[VSSBlock] = VSSBlock

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depths: Sequence[int] = (2, 2, 8, 2),
        dims: int | Sequence[int] = 96,
        d_state: int = 1,
        ratio: float = 1.0,
        dt_rank: int | None = None,
        act: str = "silu",
        d_conv: int = 3,
        conv_bias: bool = False,
        gate: str = "none",
        paths: str | Sequence[ScanPath] = "cross",
        out_norm: str = "layer",
        out_act: bool = False,
        ssd: bool = False,
        init: str = "mamba",
        mlp_ratio: float = 4.0,
        mlp_act: str = "gelu",
        mlp_gated: bool = False,
        norm: str = "layer",
        stem: str = "conv",
        stem_norm: bool = True,
        downsample: str = "conv3",
        pos_embed: bool = False,
        drop_rate: float = 0.0,
        ssm_drop_rate: float = 0.0,
        mlp_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        block_args: Sequence[Mapping[str, Any]] | None = None,
        mlp: str = "dense",
        mlp_args: Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_choice(STEMS, stem=stem)
        check_choice(DOWNSAMPLES, downsample=downsample)
        check_rates(
            drop_rate=drop_rate,
            ssm_drop_rate=ssm_drop_rate,
            mlp_drop_rate=mlp_drop_rate,
            drop_path_rate=drop_path_rate,
        )
        dims = checked_widths(dims, depths)
        self.in_chans = in_chans
        self.embed_dim = dims[0]
        self.feature_info = [
            dict(num_chs=dim, reduction=patch_size * 2**i, module=f"stages.{i}") for i, dim in enumerate(dims)
        ]
        self.patch_embed = MapStem(in_chans, dims[0], patch_size, stem, norm if stem_norm else "none", **dd)
        grid = [side // patch_size for side in to_2tuple(img_size)]
        self.pos_embed = nn.Parameter(torch.empty(1, dims[0], *grid, **dd)) if pos_embed else None
        block: dict[str, Any] = dict(
            d_state=d_state, ratio=ratio, dt_rank=dt_rank, act=act, d_conv=d_conv, conv_bias=conv_bias, gate=gate,
            paths=paths, out_norm=out_norm, out_act=out_act, ssd=ssd, init=init, ssm_drop_rate=ssm_drop_rate,
            mlp_ratio=mlp_ratio, mlp_act=mlp_act, mlp_gated=mlp_gated, mlp_drop_rate=mlp_drop_rate, norm=norm,
            mlp=mlp, mlp_args=mlp_args,
        )  # fmt: skip
        rates: Any = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        own = iter(per_block("block_args", block_args, sum(depths)))
        self.stages = nn.Sequential()
        for i, dim in enumerate(dims):
            down = MapDownsample(dims[i - 1], dim, downsample, norm, **dd) if i > 0 else nn.Identity()
            blocks = [
                self.new_block(i, dim, drop_path=next(rates), **{**block, **next(own)}, **dd)
                for _ in range(depths[i])
            ]
            self.stages.append(Stage(down, blocks))
        self.norm = map_norm(norm, dims[-1], **dd)
        self.add_head(num_classes, global_pool, drop_rate, dd)
        VMamba.init_weights(self, needs_reset=False)  # OpenMMLab's base class has another method of this name

    def new_block(self, stage: int, dim: int, **options: Any) -> nn.Module:
        """A block of ``dim`` channels for a stage, with options as `VSSBlock` takes them."""
        return self.block_class(dim, **options)

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
            elif isinstance(module, MoE):
                for name, parameter in module.named_parameters(recurse=False):
                    (nn.init.zeros_ if "bias" in name else _init_matrix)(parameter)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Patterns of parameters without weight decay, beyond vectors.

        As in official training ``A_log``, ``dt_bias`` and the projections are decayed. The authors' ``D`` is a
        vector, ours has an axis of directions, and so have biases of experts one of experts; they are named.
        """
        ends = ("ssm.D", "mlp.bias1", "mlp.bias2")
        named = {f"*.{end}" for end in ends if any(name.endswith(end) for name, _ in self.named_parameters())}
        return named | ({"pos_embed"} if self.pos_embed is not None else set())

    def _init_head(self) -> None:
        if isinstance(self.head.fc, nn.Linear):
            _init_linear(self.head.fc)


def _init_matrix(weight: Tensor) -> None:
    trunc_normal_(weight, std=0.02)


def _init_linear(linear: nn.Linear) -> None:
    _init_matrix(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
