"""The VideoMamba authors' network of the masked pretraining (``video_sm/models/videomamba_pretrain.py``)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vimzoo.models.videomamba.pretraining import VideoMambaPretraining
from vimzoo.models.vim.videomamba import SIZES

from ..attributes import Alias, Fixed, given_arguments, refuse_unknown
from ..official import accept_official_names
from .arguments import WITHOUT_EFFECT, Attributes, model_options

__all__ = ["VisionMamba", "videomamba_middle_pretrain"]


class VisionMamba(Attributes, VideoMambaPretraining):
    """The network of the masked pretraining with the authors' arguments, positions and defaults.

    With ``fused_add_norm`` the features of the last block do not contain its output, as in theirs. With
    ``use_checkpoint`` all blocks are recomputed in the backward pass, not the first ``checkpoint_num`` alone.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    temporal_pos_embedding = Alias("temporal_pos_embed")
    return_index = Alias("taken")
    use_checkpoint, checkpoint_num, depth = Fixed(), Fixed(), Fixed()

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        depth: int = 24,
        embed_dim: int = 192,
        channels: int = 3,
        drop_path_rate: float = 0.0,
        ssm_cfg: Mapping[str, Any] | None = None,
        norm_epsilon: float = 1e-5,
        initializer_cfg: Mapping[str, Any] | None = None,
        fused_add_norm: bool = True,
        rms_norm: bool = True,
        residual_in_fp32: bool = True,
        bimamba: bool = True,
        kernel_size: int = 1,
        num_frames: int = 8,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        use_checkpoint: bool = False,
        checkpoint_num: int = 0,
        clip_decoder_embed_dim: int = 768,
        clip_output_dim: int = 512,
        clip_norm_type: str = "l2",
        clip_return_layer: int = 1,
        clip_student_return_interval: int = 1,
        **kwargs: Any,
    ) -> None:
        given = given_arguments(locals())
        refuse_unknown("VisionMamba", kwargs, WITHOUT_EFFECT)
        if clip_norm_type not in ("l2", "none"):
            raise ValueError(f"clip_norm_type: expected 'l2' or 'none', got {clip_norm_type!r}")
        super().__init__(
            num_frames=num_frames, tubelet_size=kernel_size, output_dim=clip_output_dim,
            decoder_dim=clip_decoder_embed_dim, layers=clip_return_layer, interval=clip_student_return_interval,
            unit_length=clip_norm_type == "l2", last_output=not fused_add_norm, **model_options(given),
        )  # fmt: skip
        self.arguments = given
        self.set_grad_checkpointing(use_checkpoint and checkpoint_num > 0)
        accept_official_names(self)

    def forward_features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Clips ``(B, C, T, H, W)`` -> the features of the chosen blocks at visible tokens, ``(K, B, L, D)``."""
        return self.encode(x, mask)[1]


def videomamba_middle_pretrain(pretrained: bool = False, **kwargs: Any) -> VisionMamba:
    """The network that the authors pretrained.

    Raises:
        ValueError: ``pretrained`` is set; load the authors' file into the model instead.
    """
    if pretrained:
        raise ValueError("pretrained: expected False; load the authors' file with load_state_dict")
    return VisionMamba(patch_size=16, **SIZES["middle"], **kwargs)
