"""MobileMamba: three stages at strides 16, 32 and 64; the package registers its variants."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import calculate_drop_path_rates, trunc_normal_
from torch import Tensor, nn

from vimzoo.layers.checks import check_rates
from vimzoo.layers.fused import ChannelBatchNorm, norm_into_linear
from vimzoo.layers.mobile import MobileBlock, MobileDownsample

from ..distilled import DistilledHead, DistilledModel
from ..initial import reset_layers
from ..staged import Stage, StagedModel, checked_widths
from .names import MOBILE_MAMBA
from .stem import MobileStem


class MobileHead(DistilledHead):
    """The mean of the last map, and classifiers with a batch norm each.

    Args:
        in_features, num_classes, **options: As `DistilledHead` takes them.
    """

    def new_norm(self, width: int, dd: dict[str, Any]) -> nn.Module:
        """A batch norm."""
        return ChannelBatchNorm(width, **dd)

    @torch.jit.ignore
    def fuse(self) -> Any:
        """The head itself, with its norms in its classifiers, as evaluation mode computes them."""
        if isinstance(self.norm, ChannelBatchNorm):
            self.fc, self.norm = norm_into_linear(self.norm, self.fc), nn.Identity()
        if isinstance(self.norm_dist, ChannelBatchNorm) and isinstance(self.fc_dist, nn.Linear):
            self.fc_dist, self.norm_dist = norm_into_linear(self.norm_dist, self.fc_dist), nn.Identity()
        return self


class MobileMamba(DistilledModel, StagedModel):
    """MobileMamba with timm's model contract; any image size.

    The authors' option names are given in parentheses; `vimzoo.compat.mobile_mamba.MobileMamba` takes those.
    ``timm.models.reparameterize_model(model)`` folds the batch norms into their layers, for inference.

    Args:
        in_chans: Channels of the images.
        num_classes: Classes; 0 for no classifier.
        global_pool: ``"avg"``, ``"max"``, ``"avgmax"``, or ``""`` for none.
        depths: Blocks per stage (``depth``).
        dims: Channels per stage, the first a multiple of 8; one number doubles from stage to stage (``embed_dim``).
        kernels: Sizes of the mixers' convolutions per stage, odd.
        global_ratios, local_ratios: Shares of the channels that the mixers of each stage scan and convolve, as
            `vimzoo.layers.wavelet.channel_split` takes them (``global_ratio``, ``local_ratio``).
        ratio: Inner width of the scans in multiples of their channels (``ssm_ratio``).
        d_state: States N per channel.
        mlp_ratio: Hidden width of the MLPs in multiples of the channels.
        distilled: A second classifier; the scores are the mean of both (``distillation``). In training
            ``set_distilled_training()`` returns both.
        drop_rate: Dropout before the classifiers.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0 (``drop_path``).

    Raises:
        ValueError: an option has no such value, or a size is not positive.
    """

    dialect = MOBILE_MAMBA
    _keep_in_fp32_modules_strict = (
        "A_log",
    )  # asked for by transformers when it loads in bfloat16 or float16

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depths: Sequence[int] = (2, 3, 2),
        dims: int | Sequence[int] = (200, 376, 448),
        kernels: Sequence[int] = (7, 5, 3),
        global_ratios: Sequence[float] = (0.8, 0.7, 0.6),
        local_ratios: Sequence[float] = (0.2, 0.2, 0.3),
        ratio: float = 2.0,
        d_state: int = 1,
        mlp_ratio: int = 2,
        distilled: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_rates(drop_rate=drop_rate, drop_path_rate=drop_path_rate)
        dims = checked_widths(dims, depths)
        per_stage = dict(kernels=kernels, global_ratios=global_ratios, local_ratios=local_ratios)
        for name, values in per_stage.items():
            if len(values) != len(dims):
                raise ValueError(f"{name}: expected {len(dims)} numbers, got {tuple(values)}")
        self.in_chans = in_chans
        self.embed_dim = dims[0]
        self.feature_info = [
            dict(num_chs=dim, reduction=16 * 2**i, module=f"stages.{i}") for i, dim in enumerate(dims)
        ]
        self.patch_embed = MobileStem(in_chans, dims[0], **dd)
        rates: Any = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        self.stages = nn.Sequential()
        for i, dim in enumerate(dims):
            down = MobileDownsample(dims[i - 1], dim, mlp_ratio, **dd) if i > 0 else nn.Identity()
            mixer: dict[str, Any] = dict(
                kernel_size=kernels[i], global_ratio=global_ratios[i], local_ratio=local_ratios[i], ratio=ratio,
                d_state=d_state,
            )  # fmt: skip
            blocks = [MobileBlock(dim, mlp_ratio, next(rates), **dd, **mixer) for _ in range(depths[i])]
            self.stages.append(Stage(down, blocks))
        self.norm = nn.Identity()  # the classifiers have norms
        self._distilled = distilled
        self.add_head(num_classes, global_pool, drop_rate, dd)
        self._init_head()

    def new_head(self, in_features: int, num_classes: int, **options: Any) -> MobileHead:
        """See `MapModel`."""
        return MobileHead(in_features, num_classes, distilled=self._distilled, **options)

    @torch.jit.ignore
    def init_weights(self, needs_reset: bool = True) -> None:
        """As the constructor leaves the weights.

        Args:
            needs_reset: Reset every layer first (after ``to_empty``); the constructor's have just done so.
        """
        if needs_reset:
            reset_layers(self)
        self._init_head()

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Patterns of parameters without weight decay, beyond vectors: those that are a vector per direction."""
        return {"*.ssm.D"}

    def _init_head(self) -> None:
        head: Any = self.head
        for layer in (head.fc, head.fc_dist):
            if isinstance(layer, nn.Linear):
                trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def _embed(self, x: Tensor) -> Tensor:
        """Images -> the first map."""
        return self.patch_embed(x)
