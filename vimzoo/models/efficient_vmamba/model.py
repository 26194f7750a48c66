"""EfficientVMamba: two stages of scans of a quarter of the tokens each, two of convolutions; see the package."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from vimzoo.layers import AtrousBlock
from vimzoo.layers.efficient import MapBlock

from .._timm import InvertedResidual, SqueezeExcite
from ..export_options import ExportOptions
from ..vmamba.dense import VMambaDense
from ..vmamba.model import VMamba
from .names import EFFICIENT_VMAMBA

SCANNED_STAGES = 2
"""Stages with scans; those after them have inverted residuals (Sandler et al. 2018) with squeeze and excitation."""


class EfficientVMamba(VMamba):
    """EfficientVMamba with timm's model contract; any image size.

    Args:
        dims, depths, d_state, ratio, conv_bias, gate, paths, mlp_ratio, stem, downsample: As in `VMamba`, with the
            authors' values as defaults.
        **options: As `VMamba` takes them.

    Raises:
        ValueError: an option has no such value, or a size is not positive.
    """

    export_options = ExportOptions(one_size=True)
    dialect = EFFICIENT_VMAMBA
    block_class = AtrousBlock

    def __init__(
        self,
        *,
        dims: int | Sequence[int] = 48,
        depths: Sequence[int] = (2, 2, 4, 2),
        d_state: int = 16,
        ratio: float = 2.0,
        conv_bias: bool = True,
        gate: str = "act",
        paths: Any = "atrous",
        mlp_ratio: float = 0.0,
        stem: str = "patch",
        downsample: str = "merge",
        **options: Any,
    ) -> None:
        super().__init__(
            dims=dims, depths=depths, d_state=d_state, ratio=ratio, conv_bias=conv_bias, gate=gate, paths=paths,
            mlp_ratio=mlp_ratio, stem=stem, downsample=downsample, **options,
        )  # fmt: skip

    def new_block(self, stage: int, dim: int, **options: Any) -> nn.Module:
        """An `AtrousBlock`, or in later stages an inverted residual."""
        if stage < SCANNED_STAGES:
            return super().new_block(stage, dim, **options)
        dd: dict[str, Any] = {key: options.get(key) for key in ("device", "dtype")}
        excite: Any = partial(SqueezeExcite, rd_ratio=0.125)
        rate = options.get("drop_path", 0.0)
        return MapBlock(
            InvertedResidual(
                dim, dim, exp_ratio=4.0, act_layer=nn.ReLU, se_layer=excite, drop_path_rate=rate, **dd
            )
        )


class EfficientVMambaDense(VMambaDense, EfficientVMamba):
    """Maps of chosen stages, each with a norm of its own, as the authors' OpenMMLab code uses them.

    Args:
        out_indices: Stages whose maps are returned.
        norm, **kwargs: As `EfficientVMamba` takes them.
    """
