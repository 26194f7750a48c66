"""The VideoMamba authors' classifiers of clips (``video_sm/models/videomamba.py``)."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from vimzoo.models.videomamba import VideoMamba, inflated
from vimzoo.models.vim.videomamba import SIZES

from ..attributes import Alias, Fixed, given_arguments, refuse_unknown
from ..mamba_ssm.modules.mamba_simple import refuse_inference
from ..official import accept_official_names
from .arguments import WITHOUT_EFFECT, Attributes, model_options
from .image_sm import official_weights

__all__ = [
    "VisionMamba",
    "inflate_weight",
    "load_state_dict",
    "videomamba_middle",
    "videomamba_small",
    "videomamba_tiny",
]


class VisionMamba(Attributes, VideoMamba):
    """A classifier of clips with the authors' arguments, positions and defaults.

    ``fused_add_norm`` changes no result. Neither do the arguments that timm's ``create_model`` passes on. With
    ``use_checkpoint`` all blocks are recomputed in the backward pass, not the first ``checkpoint_num`` alone.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    norm_f, temporal_pos_embedding = Alias("norm"), Alias("temporal_pos_embed")
    use_checkpoint, checkpoint_num = Fixed(), Fixed()

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
        kernel_size: int = 1,
        num_frames: int = 8,
        fc_drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        use_checkpoint: bool = False,
        checkpoint_num: int = 0,
        **kwargs: Any,
    ) -> None:
        given = given_arguments(locals())
        refuse_unknown("VisionMamba", kwargs, WITHOUT_EFFECT)
        super().__init__(
            num_frames, kernel_size, num_classes=num_classes, drop_rate=fc_drop_rate, pos_drop_rate=drop_rate,
            **model_options(given),
        )  # fmt: skip
        self.arguments = given
        self.set_grad_checkpointing(use_checkpoint and checkpoint_num > 0)
        accept_official_names(self)

    def forward_features(self, x: Tensor, inference_params: Any = None) -> Tensor:  # type: ignore[override]
        """Clips ``(B, C, T, H, W)`` -> the class token ``(B, D)``; timm's contract has all tokens here."""
        refuse_inference(inference_params)
        return self.pool(super().forward_features(x))

    def forward(self, x: Tensor, inference_params: Any = None) -> Tensor:
        """Clips ``(B, C, T, H, W)`` -> logits."""
        return self.head(self.head_drop(self.forward_features(x, inference_params)))


def inflate_weight(weight_2d: Tensor, time_dim: int, center: bool = True) -> Tensor:
    """A patch kernel ``(D, C, h, w)`` for tubelets, ``(D, C, time_dim, h, w)``."""
    return inflated(weight_2d, time_dim, center)


def load_state_dict(model: VideoMamba, state_dict: Mapping[str, Tensor], center: bool = True) -> None:
    """Load an image model's state dict, in a wrapper ``{"model": ...}`` or not, into a model of clips.

    The patch kernel is inflated; the head and the temporal embedding stay as they are.

    Args:
        center: As `inflate_weight` takes it.

    Raises:
        RuntimeError: a tensor has another shape.
    """
    state = dict(state_dict.get("model", state_dict))  # type: ignore[arg-type, call-overload]
    kernel = state["patch_embed.proj.weight"]
    if kernel.dim() == 4:
        state["patch_embed.proj.weight"] = inflated(kernel, model.patch_embed.tubelet_size, center)
    state = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    model.load_state_dict(state, strict=False)


def _registered(name: str) -> Callable[..., VisionMamba]:
    size = name.removeprefix("videomamba_")

    def build(pretrained: bool = False, **kwargs: Any) -> VisionMamba:
        model = VisionMamba(patch_size=16, **SIZES[size], **kwargs)
        if pretrained:
            options = dict(in_chans=model.in_chans, img_size=model.patch_embed.img_size)
            load_state_dict(model, official_weights(name, **options))
        return model

    build.__name__ = build.__qualname__ = name
    build.__doc__ = "A classifier of clips; ``pretrained`` starts from the weights of the image model."
    return build


videomamba_tiny = _registered("videomamba_tiny")
videomamba_small = _registered("videomamba_small")
videomamba_middle = _registered("videomamba_middle")
