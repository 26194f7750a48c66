"""The VideoMamba authors' teacher and student of a distillation (``image_sm/models/videomamba_distill.py``)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vimzoo.models.vim import Vim
from vimzoo.models.vim.videomamba import SIZES

from ..attributes import Alias, Fixed, given_arguments, refuse_unknown
from ..mamba_ssm.modules.mamba_simple import refuse_inference
from ..official import accept_official_names
from .arguments import WITHOUT_EFFECT, Attributes, model_options

__all__ = ["VisionMamba", "videomamba_base_distill", "videomamba_middle_distill"]


class VisionMamba(Attributes, Vim):
    """A classifier that also returns the features of all tokens, of length 1, with the authors' arguments.

    A student's features are those of ``distill_head``, a norm and a linear map to the teacher's width. To evaluate a
    student's file, load it into `vimzoo.compat.videomamba.image_sm` without ``distill_head.*``.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    norm_f = Alias("norm")
    model_type = Fixed()

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        depth: int = 24,
        embed_dim: int = 192,
        channels: int = 3,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        ssm_cfg: Mapping[str, Any] | None = None,
        norm_epsilon: float = 1e-5,
        initializer_cfg: Mapping[str, Any] | None = None,
        fused_add_norm: bool = True,
        rms_norm: bool = True,
        residual_in_fp32: bool = True,
        bimamba: bool = True,
        teacher_embed_dim: int = 384,
        model_type: str = "student",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        given = given_arguments(locals())
        refuse_unknown("VisionMamba", kwargs, WITHOUT_EFFECT)
        width = teacher_embed_dim if model_type == "student" else None
        super().__init__(
            num_classes=num_classes, pos_drop_rate=drop_rate, distill_dim=width, **model_options(given)
        )
        self.arguments = given
        accept_official_names(self)

    def forward_features(  # type: ignore[override]
        self, x: Tensor, inference_params: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)`` -> the class token ``(B, D)`` and features ``(B, L, teacher_embed_dim or D)``."""
        refuse_inference(inference_params)
        tokens = super().forward_features(x)
        features = tokens if self.distill_head is None else self.distill_head(tokens)
        return self.pool(tokens), F.normalize(features, dim=-1, eps=0.0)

    def forward(self, x: Tensor, inference_params: Any = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Images ``(B, C, H, W)`` -> logits and features."""
        token, features = self.forward_features(x, inference_params)
        return self.head(token), features


def _build(size: str, pretrained: bool, options: dict[str, Any]) -> VisionMamba:
    if pretrained:
        raise ValueError(
            "pretrained: expected False, the authors publish no weights with a distillation head"
        )
    return VisionMamba(patch_size=16, **SIZES[size], **options)


def videomamba_middle_distill(pretrained: bool = False, **kwargs: Any) -> VisionMamba:
    """VideoMamba-M as teacher or student.

    Raises:
        ValueError: ``pretrained`` is set; no such weights are published.
    """
    return _build("middle", pretrained, kwargs)


def videomamba_base_distill(pretrained: bool = False, **kwargs: Any) -> VisionMamba:
    """VideoMamba-B as teacher or student.

    Raises:
        ValueError: ``pretrained`` is set; no such weights are published.
    """
    return _build("base", pretrained, kwargs)
