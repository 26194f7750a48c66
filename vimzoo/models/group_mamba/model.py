"""GroupMamba: four stages of mixers whose quarters read one direction each; the package registers its variants."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import calculate_drop_path_rates, trunc_normal_
from torch import Tensor, nn

from vimzoo.layers import MapDownsample
from vimzoo.layers.checks import check_rates
from vimzoo.layers.grouped import GroupBlock, GroupClassBlock, GroupedLinear

from ..distilled import DistilledHead, DistilledModel
from ..export_options import ExportOptions
from ..initial import reset_layers
from ..staged import Stage, StagedModel, checked_widths
from .names import GROUP_MAMBA
from .stem import ConvStem


class GroupHead(DistilledHead):
    """The mean of the last map as a class token, a block of its own, a norm, and the classifiers.

    Without pooling, each position is a class token.

    Args:
        in_features, num_classes: As `DistilledHead` takes them.
        mlp_ratio, d_state, d_conv, norm_eps: As in `vimzoo.layers.grouped.GroupClassBlock`.
        **options: As `DistilledHead` takes them.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        mlp_ratio: float = 4.0,
        d_state: int = 1,
        d_conv: int = 3,
        norm_eps: float = 1e-6,
        **options: Any,
    ) -> None:
        super().__init__(in_features, num_classes, **options)
        dd: dict[str, Any] = {key: options.get(key) for key in ("device", "dtype")}
        self.block: nn.Module = GroupClassBlock(in_features, mlp_ratio, d_state, d_conv, norm_eps, **dd)
        self.pre_norm: nn.Module = nn.LayerNorm(in_features, norm_eps, **dd)

    def features(self, x: Tensor) -> Tensor:
        """The class token after its block and norm."""
        return self.pre_norm(self.block(x))


class GroupMamba(DistilledModel, StagedModel):
    """GroupMamba with timm's model contract; any image size.

    The authors' option names are given in parentheses; `vimzoo.compat.group_mamba.GroupMamba` takes those.

    Args:
        in_chans: Channels of the images.
        num_classes: Classes; 0 for no classifier.
        global_pool: ``"avg"``, ``"max"``, ``"avgmax"``, or ``""`` for none.
        depths: Blocks per stage.
        dims: Channels per stage, multiples of 4; one number doubles from stage to stage (``embed_dims``).
        mlp_ratios: Hidden width of the MLPs of each stage in multiples of its channels.
        stem_width: Channels of the stem's first convolutions (``stem_hidden_dim``).
        d_state, d_conv: As in `vimzoo.layers.grouped.GroupSS2D`.
        norm_eps: Of the norms of blocks and after stages, as ``norm_layer`` says.
        distilled: A second classifier; the scores are the mean of both (``distillation``). In training
            ``set_distilled_training()`` returns both.
        drop_rate: Dropout before the classifiers.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.

    Raises:
        ValueError: an option has no such value, or a size is not positive.
    """

    export_options = ExportOptions(one_size=True)
    dialect = GROUP_MAMBA
    _keep_in_fp32_modules_strict = (
        "A_log",
    )  # asked for by transformers when it loads in bfloat16 or float16

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depths: Sequence[int] = (3, 4, 9, 3),
        dims: int | Sequence[int] = (64, 128, 348, 448),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        stem_width: int = 32,
        d_state: int = 1,
        d_conv: int = 3,
        norm_eps: float = 1e-6,
        distilled: bool = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_rates(drop_rate=drop_rate, drop_path_rate=drop_path_rate)
        dims = checked_widths(dims, depths)
        if len(mlp_ratios) != len(dims):
            raise ValueError(f"mlp_ratios: expected {len(dims)} numbers, got {tuple(mlp_ratios)}")
        self.in_chans = in_chans
        self.embed_dim = dims[0]
        self.feature_info = [
            dict(num_chs=dim, reduction=4 * 2**i, module=f"stages.{i}") for i, dim in enumerate(dims)
        ]
        self.patch_embed = ConvStem(in_chans, dims[0], stem_width, **dd)
        mixer: dict[str, Any] = dict(d_state=d_state, d_conv=d_conv, norm_eps=norm_eps)
        rates: Any = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        self.stages = nn.Sequential()
        for i, dim in enumerate(dims):
            down = MapDownsample(dims[i - 1], dim, **dd) if i > 0 else nn.Identity()
            blocks = [GroupBlock(dim, mlp_ratios[i], next(rates), **mixer, **dd) for _ in range(depths[i])]
            norm = nn.LayerNorm(dim, norm_eps, **dd) if i < len(dims) - 1 else None
            self.stages.append(Stage(down, blocks, norm))
        self.norm = nn.Identity()  # the head normalises the class token
        self._head_options = dict(mlp_ratio=mlp_ratios[-1], distilled=distilled, **mixer)
        self.add_head(num_classes, global_pool, drop_rate, dd)
        self.init_weights(needs_reset=False)

    def new_head(self, in_features: int, num_classes: int, **options: Any) -> GroupHead:
        """See `MapModel`."""
        return GroupHead(in_features, num_classes, **self._head_options, **options)

    @torch.jit.ignore
    def init_weights(self, needs_reset: bool = True) -> None:
        """The authors' initialisation.

        Args:
            needs_reset: Reset every layer first (after ``to_empty``); the constructor's have just done so.
        """
        if needs_reset:
            reset_layers(self)
        for module in self.modules():
            _init(module)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Patterns of parameters without weight decay, beyond vectors: those that are vectors of one group.

        As in official training ``A_log``, ``dt_bias`` and the projections are decayed.
        """
        return {"*.ssm.D", "*.out_norm.weight", "*.out_norm.bias"}

    def _init_head(self) -> None:
        head: Any = self.head
        for layer in (head.fc, head.fc_dist):
            if layer is not None:
                _init(layer)

    def _embed(self, x: Tensor) -> Tensor:
        """Images -> the first map."""
        return self.patch_embed(x)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """See `MapModel`; without classifiers there is no class token."""
        take = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if self.num_classes == 0:
            self.head.block = self.head.pre_norm = nn.Identity()
        return take


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | GroupedLinear):
        trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    else:
        return
    if getattr(module, "bias", None) is not None:
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]
