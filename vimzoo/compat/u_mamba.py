"""The U-Mamba authors' constructors (bowang-lab/U-Mamba: nnunetv2/nets/UMamba*.py), returning our modules.

Arguments keep their names, positions and meaning, ``conv_op`` decides between images and volumes, and
``load_state_dict`` takes the authors' keys, also the ones that their files hold twice. `official_state_dict` and
`official_gradients` write state and gradients back under their names. `vimzoo.models.UMamba` documents each option.

As in theirs, stages of the deeper half have one block whatever ``n_conv_per_stage`` says. Options that nnU-Net's plans
never set otherwise are refused: dropout, other norms than instance norms, other activations than LeakyReLU.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vimzoo import models
from vimzoo.layers import GridMamba
from vimzoo.models.u_mamba import U_MAMBA
from vimzoo.models.u_mamba.model import default_decoder_depths, default_depths

from .official import Named, accept_official_names, official_gradients, official_state_dict

__all__ = ["MambaLayer", "UMambaBot", "UMambaEnc", "official_gradients", "official_state_dict"]


_IN_FORCE: dict[str, dict[str, tuple[Any, ...]]] = {
    "norm_op_kwargs": {"eps": (1e-5,), "affine": (True,)},
    "nonlin_kwargs": {"inplace": (True, False), "negative_slope": (0.01,)},
    "dropout_op_kwargs": {},
}
"""The arguments of norms and activations that nnU-Net's plans set."""


class MambaLayer(Named, GridMamba):
    """Norm and Mamba on the positions of a map or volume, without the input.

    Raises:
        ValueError: a size is not positive.
    """

    dialect = U_MAMBA

    def __init__(
        self, dim: int, d_state: int = 16, d_conv: int = 4, expand: float = 2, channel_token: bool = False
    ) -> None:
        options = {"d_state": d_state, "d_conv": d_conv, "expand": expand}
        super().__init__(dim, residual=False, channel_tokens=channel_token, mixer_args=options)
        accept_official_names(self)


class _UMamba(models.UMamba):
    """What the two networks have in common."""

    def __init__(
        self,
        mamba: str,
        input_size: Sequence[int] | None,
        input_channels: int,
        n_stages: int,
        features_per_stage: int | Sequence[int],
        conv_op: type[nn.Module],
        kernel_sizes: int | Sequence[int | Sequence[int]],
        strides: int | Sequence[int | Sequence[int]],
        n_conv_per_stage: int | Sequence[int],
        num_classes: int,
        n_conv_per_stage_decoder: int | Sequence[int],
        deep_supervision: bool,
        options: Mapping[str, Any],
    ) -> None:
        expected: dict[str, Any] = {
            "norm_op": (None, nn.InstanceNorm2d, nn.InstanceNorm3d),
            "nonlin": (None, nn.LeakyReLU),
            "dropout_op": (None,),
            "conv_bias": (True,),
        }
        for name, known in expected.items():
            if options[name] not in known:
                raise ValueError(f"{name}: expected one of {known}, got {options[name]!r}")
        for name, known in _IN_FORCE.items():
            for key, value in (options[name] or {}).items():
                if key not in known or value not in known[key]:
                    raise ValueError(f"{name}: expected {known}, got {key}={value!r}")
        first = features_per_stage if isinstance(features_per_stage, int) else features_per_stage[0]
        if options["stem_channels"] not in (None, first):
            raise ValueError(f"stem_channels: expected None or {first}, got {options['stem_channels']!r}")
        if conv_op not in (nn.Conv2d, nn.Conv3d):
            raise ValueError(f"conv_op: expected torch.nn.Conv2d or Conv3d, got {conv_op!r}")

        def listed(value: Any, count: int) -> list[Any]:
            return [value] * count if isinstance(value, int) else list(value)

        blocks = zip(listed(n_conv_per_stage, n_stages), default_depths(n_stages), strict=True)
        decoder = listed(n_conv_per_stage_decoder, n_stages - 1)
        decoder_blocks = zip(decoder, default_decoder_depths(n_stages), strict=True)
        super().__init__(
            input_channels, num_classes, listed(features_per_stage, n_stages), mamba, 2 if conv_op is nn.Conv2d else 3,
            listed(strides, n_stages), listed(kernel_sizes, n_stages),
            [given if most > 1 else 1 for given, most in blocks],
            [given if most > 1 else 1 for given, most in decoder_blocks], input_size, True,
        )  # fmt: skip
        self.deep_supervision = deep_supervision
        accept_official_names(self)

    def forward(self, x: Tensor) -> Any:
        """Images -> scores, or with deep supervision a list of them, the finest first."""
        return self.level_scores(x) if self.deep_supervision else super().forward(x)


class UMambaBot(_UMamba):
    """Their network with Mamba on the coarsest map.

    Raises:
        ValueError: an option has an unknown value, or the lists differ in length.
    """

    def __init__(
        self,
        input_channels: int,
        n_stages: int,
        features_per_stage: int | Sequence[int],
        conv_op: type[nn.Module],
        kernel_sizes: int | Sequence[int | Sequence[int]],
        strides: int | Sequence[int | Sequence[int]],
        n_conv_per_stage: int | Sequence[int],
        num_classes: int,
        n_conv_per_stage_decoder: int | Sequence[int],
        conv_bias: bool = True,
        norm_op: type[nn.Module] | None = None,
        norm_op_kwargs: Mapping[str, Any] | None = None,
        dropout_op: type[nn.Module] | None = None,
        dropout_op_kwargs: Mapping[str, Any] | None = None,
        nonlin: type[nn.Module] | None = None,
        nonlin_kwargs: Mapping[str, Any] | None = None,
        deep_supervision: bool = False,
        stem_channels: int | None = None,
    ) -> None:
        options = dict(
            norm_op=norm_op, nonlin=nonlin, dropout_op=dropout_op, conv_bias=conv_bias, norm_op_kwargs=norm_op_kwargs,
            nonlin_kwargs=nonlin_kwargs, dropout_op_kwargs=dropout_op_kwargs, stem_channels=stem_channels,
        )  # fmt: skip
        super().__init__(
            "bottleneck", None, input_channels, n_stages, features_per_stage, conv_op, kernel_sizes, strides,
            n_conv_per_stage, num_classes, n_conv_per_stage_decoder, deep_supervision, options,
        )  # fmt: skip


class UMambaEnc(_UMamba):
    """Their network with Mamba in the encoder, for images or volumes of ``input_size``.

    Raises:
        ValueError: an option has an unknown value, or the lists differ in length.
    """

    def __init__(
        self,
        input_size: Sequence[int],
        input_channels: int,
        n_stages: int,
        features_per_stage: int | Sequence[int],
        conv_op: type[nn.Module],
        kernel_sizes: int | Sequence[int | Sequence[int]],
        strides: int | Sequence[int | Sequence[int]],
        n_conv_per_stage: int | Sequence[int],
        num_classes: int,
        n_conv_per_stage_decoder: int | Sequence[int],
        conv_bias: bool = True,
        norm_op: type[nn.Module] | None = None,
        norm_op_kwargs: Mapping[str, Any] | None = None,
        dropout_op: type[nn.Module] | None = None,
        dropout_op_kwargs: Mapping[str, Any] | None = None,
        nonlin: type[nn.Module] | None = None,
        nonlin_kwargs: Mapping[str, Any] | None = None,
        deep_supervision: bool = False,
        stem_channels: int | None = None,
    ) -> None:
        options = dict(
            norm_op=norm_op, nonlin=nonlin, dropout_op=dropout_op, conv_bias=conv_bias, norm_op_kwargs=norm_op_kwargs,
            nonlin_kwargs=nonlin_kwargs, dropout_op_kwargs=dropout_op_kwargs, stem_channels=stem_channels,
        )  # fmt: skip
        super().__init__(
            "encoder", input_size, input_channels, n_stages, features_per_stage, conv_op, kernel_sizes, strides,
            n_conv_per_stage, num_classes, n_conv_per_stage_decoder, deep_supervision, options,
        )  # fmt: skip
