"""The VideoMamba authors' classifiers of images (``image_sm/models/videomamba.py``)."""

from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
from torch import Tensor

from vimzoo.models.vim import Vim
from vimzoo.models.vim.videomamba import AUTHORS_NAMES, SIZES

from ..attributes import Alias, given_arguments, refuse_unknown
from ..mamba_ssm.modules.mamba_simple import refuse_inference
from ..official import accept_official_names, official_state_dict
from .arguments import WITHOUT_EFFECT, Attributes, model_options
from .mamba_simple import Mamba, create_block

__all__ = [
    "Mamba",
    "VisionMamba",
    "create_block",
    "videomamba_base",
    "videomamba_middle",
    "videomamba_small",
    "videomamba_tiny",
]


class VisionMamba(Attributes, Vim):
    """A classifier of images with the authors' arguments, positions and defaults.

    ``fused_add_norm`` changes no result. Neither do the arguments that timm's ``create_model`` passes on.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    norm_f = Alias("norm")

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        stride: int = 16,
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        given = given_arguments(locals())
        refuse_unknown("VisionMamba", kwargs, WITHOUT_EFFECT)
        super().__init__(
            num_classes=num_classes, stride=stride, pos_drop_rate=drop_rate, **model_options(given)
        )
        self.arguments = given
        accept_official_names(self)

    def forward_features(self, x: Tensor, inference_params: Any = None) -> Tensor:  # type: ignore[override]
        """Images ``(B, C, H, W)`` -> the class token ``(B, D)``; timm's contract has all tokens here."""
        refuse_inference(inference_params)
        return self.pool(super().forward_features(x))

    def forward(self, x: Tensor, inference_params: Any = None) -> Tensor:
        """Images ``(B, C, H, W)`` -> logits."""
        return self.head(self.forward_features(x, inference_params))


def official_weights(name: str, **options: Any) -> dict[str, Tensor]:
    """The published weights of a model under the authors' name, downloaded, for a model with these options."""
    source = timm.create_model(str(AUTHORS_NAMES[name]), pretrained=True, **options)
    return official_state_dict(source)


def _registered(name: str) -> Callable[..., VisionMamba]:
    tagged = str(AUTHORS_NAMES[name])

    def build(pretrained: bool = False, **kwargs: Any) -> VisionMamba:
        model = VisionMamba(patch_size=16, **SIZES[name.removeprefix("videomamba_")], **kwargs)
        if pretrained:
            size = model.patch_embed.img_size
            model.load_state_dict(
                official_weights(name, num_classes=model.num_classes, in_chans=model.in_chans, img_size=size)
            )
        return model

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"`{tagged}` under the authors' name."
    return build


videomamba_tiny = _registered("videomamba_tiny")
videomamba_small = _registered("videomamba_small")
videomamba_middle = _registered("videomamba_middle")
videomamba_base = _registered("videomamba_base")
