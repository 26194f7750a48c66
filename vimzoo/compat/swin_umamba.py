"""The Swin-UMamba authors' constructors (JiarunLiu/Swin-UMamba: nnunetv2/nets), returning our modules.

Arguments keep their names, positions, defaults and meaning, and ``load_state_dict`` takes the authors' keys.
`official_state_dict` and `official_gradients` write state and gradients back under their names.
`vimzoo.models.SwinUMamba` and `SwinUMambaD` document each option. With ``deep_supervision`` the models return a list of
scores, the finest first, in evaluation, too.

Upstream bugs that are not imitated: images whose sides are not multiples of 32 are padded; widths that do not fit the
encoder are refused. Arguments without effect in theirs have none here: ``drop_path_rate`` (0.2 in the encoder) and
``layer_scale_init_value`` of ``SwinUMamba``, ``attn_drop_rate`` and ``use_checkpoint`` of the encoder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from vimzoo import models
from vimzoo.models.segmentation_base import SegmentationModel
from vimzoo.models.swin_umamba.layers import VSSEncoder
from vimzoo.models.swin_umamba.model import SWIN_UMAMBA

from .official import Named, accept_official_names, official_gradients, official_state_dict

__all__ = [
    "SwinUMamba",
    "SwinUMambaD",
    "VSSMEncoder",
    "load_pretrained_ckpt",
    "official_gradients",
    "official_state_dict",
]

WIDTHS = (96, 192, 384, 768)
Model = TypeVar("Model", bound=SegmentationModel)


def _even(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A map (B, H, W, C) without the last row or column of an odd number."""
    x = args[0]
    return (x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2],)


class VSSMEncoder(Named, VSSEncoder):
    """Their encoder: the input, then the map of each stage. Odd maps lose their last row or column.

    Raises:
        ValueError: a number is not positive, or there is dropout or another norm than their models have.
    """

    dialect = SWIN_UMAMBA

    def __init__(
        self,
        patch_size: int = 4,
        in_chans: int = 3,
        depths: Sequence[int] = (2, 2, 9, 2),
        dims: int | Sequence[int] = WIDTHS,
        d_state: int | None = 16,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.2,
        norm_layer: type[nn.Module] = nn.LayerNorm,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
    ) -> None:
        if drop_rate != 0 or norm_layer is not nn.LayerNorm:
            raise ValueError(
                f"drop_rate={drop_rate}, norm_layer={norm_layer}: expected 0 and torch.nn.LayerNorm, as in their models"
            )
        widths = [dims * 2**i for i in range(len(depths))] if isinstance(dims, int) else list(dims)
        states = -(-widths[0] // 6) if d_state is None else d_state
        super().__init__(in_chans, patch_size, depths, widths, states, patch_norm, drop_path_rate)
        for stage in self.stages[1:]:
            stage.downsample.register_forward_pre_hook(_even)  # type: ignore[union-attr, operator]
        accept_official_names(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> that, and the map (B, D, h, w) of each stage."""
        return [x, *super().forward(x)]


class SwinUMamba(models.SwinUMamba):
    """Their model with a decoder of convolutions.

    Raises:
        ValueError: the widths do not fit the encoder, the norm is unknown, or there is no class.
    """

    def __init__(
        self,
        in_chans: int = 1,
        out_chans: int = 13,
        feat_size: Sequence[int] = (48, *WIDTHS),
        drop_path_rate: float = 0,
        layer_scale_init_value: float = 1e-6,
        hidden_size: int = 768,
        norm_name: str = "instance",
        res_block: bool = True,
        spatial_dims: int = 2,
        deep_supervision: bool = False,
    ) -> None:
        if tuple(feat_size) != (48, *WIDTHS) or hidden_size != WIDTHS[-1]:
            raise ValueError(
                f"feat_size={list(feat_size)}, hidden_size={hidden_size}: expected {[48, *WIDTHS]} and {WIDTHS[-1]}, "
                "as the encoder has them"
            )
        if spatial_dims != 2:
            raise ValueError(f"spatial_dims={spatial_dims}: expected 2")
        super().__init__(in_chans, out_chans, norm=norm_name, residual=res_block, drop_path_rate=0.2)
        self.side_heads.requires_grad_(True)
        self.deep_supervision = deep_supervision
        accept_official_names(self)

    def forward(self, x: Tensor) -> Any:
        """Images (B, C, H, W) -> class scores (B, classes, H, W), or a list of them with deep supervision."""
        return self.levels(x) if self.deep_supervision else super().forward(x)


class SwinUMambaD(models.SwinUMambaD):
    """Their model with a decoder of VMamba's blocks.

    Args:
        vss_args: Arguments of `VSSMEncoder`.
        decoder_args: ``num_classes``, ``deep_supervision``, ``features_per_stage``, ``drop_path_rate``, ``d_state``.

    Raises:
        ValueError: an argument is unknown, a number is not positive, or the widths of both sides differ.
    """

    def __init__(self, vss_args: Mapping[str, Any], decoder_args: Mapping[str, Any]) -> None:
        encoder = {
            "in_chans": 3, "patch_size": 4, "depths": (2, 2, 9, 2), "dims": WIDTHS, "d_state": 16,
            "drop_path_rate": 0.2, "patch_norm": True, **vss_args,
        }  # fmt: skip
        decoder = {
            "features_per_stage": WIDTHS, "drop_path_rate": 0.2, "d_state": 16, **decoder_args,
        }  # fmt: skip
        without_effect = {"drop_rate", "attn_drop_rate", "norm_layer", "use_checkpoint"}
        dims, depths = encoder["dims"], encoder["depths"]
        widths = [dims * 2**i for i in range(len(depths))] if isinstance(dims, int) else list(dims)
        known = {"num_classes", "deep_supervision", "features_per_stage", "drop_path_rate", "d_state"}
        strange = (set(encoder) - without_effect - set(_ENCODER)) | (set(decoder) - known)
        if strange or "num_classes" not in decoder:
            raise ValueError(
                f"vss_args, decoder_args: {', '.join(sorted(strange)) or 'no num_classes'}; expected "
                f"{', '.join(_ENCODER)} and {', '.join(sorted(known))}"
            )
        if list(decoder["features_per_stage"]) != widths:
            raise ValueError(f"features_per_stage={list(decoder['features_per_stage'])}: expected {widths}")
        states = [decoder["d_state"] or -(-2 * width // 6) for width in widths[-2::-1]]
        super().__init__(
            encoder["patch_size"], encoder["in_chans"], decoder["num_classes"], depths, widths,
            -(-widths[0] // 6) if encoder["d_state"] is None else encoder["d_state"], states,
            encoder["patch_norm"], drop_path_rate=encoder["drop_path_rate"],
            decoder_drop_path_rate=decoder["drop_path_rate"],
        )  # fmt: skip
        self.side_heads.requires_grad_(True)
        self.deep_supervision = bool(decoder.get("deep_supervision", False))
        accept_official_names(self)

    def forward(self, x: Tensor) -> Any:
        """Images (B, C, H, W) -> class scores (B, classes, H, W), or a list of them with deep supervision."""
        return self.levels(x) if self.deep_supervision else super().forward(x)


_ENCODER = ("in_chans", "patch_size", "depths", "dims", "d_state", "drop_path_rate", "patch_norm")


def load_pretrained_ckpt(
    model: Model, ckpt_path: str | os.PathLike[str] = "./data/pretrained/vmamba/vmamba_tiny_e292.pth"
) -> Model:
    """Fill the encoder of a model from a VMamba's file; returns the model.

    Raises:
        CheckpointError: it is not a VMamba of the first release, or has other widths.
    """
    print(model.load_encoder(ckpt_path))
    return model
