"""The VideoMamba authors' encoder of videos beside texts (``video_mm/models/backbones/videomamba/videomamba.py``)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vimzoo.models.videomamba.pretraining import VideoMambaPretraining

from ..attributes import Alias, Fixed, given_arguments
from ..official import accept_official_names
from .arguments import Attributes, model_options

__all__ = ["PretrainVideoMamba"]

POOLS = ("cls", "cls+avg", "cls_cat_avg", "avg")


class PretrainVideoMamba(Attributes, VideoMambaPretraining):
    """The encoder with the authors' arguments, positions and defaults; the notes of `video_pretrain` apply.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    temporal_pos_embedding = Alias("temporal_pos_embed")
    return_index = Alias("taken")
    use_checkpoint, checkpoint_num, depth, pool_type, add_pool_norm = (
        Fixed(),
        Fixed(),
        Fixed(),
        Fixed(),
        Fixed(),
    )

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
        pool_type: str = "cls+avg",
        kernel_size: int = 1,
        num_frames: int = 8,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        use_checkpoint: bool = False,
        checkpoint_num: int = 0,
        clip_decoder_embed_dim: int = 768,
        clip_output_dim: int = 512,
        clip_return_layer: int = 1,
        clip_student_return_interval: int = 1,
        add_pool_norm: bool = True,
    ) -> None:
        given = given_arguments(locals())
        if pool_type not in POOLS:
            raise ValueError(f"pool_type: expected one of {POOLS}, got {pool_type!r}")
        super().__init__(
            num_frames=num_frames, tubelet_size=kernel_size, output_dim=clip_output_dim,
            decoder_dim=clip_decoder_embed_dim, layers=clip_return_layer, interval=clip_student_return_interval,
            unit_length=False, last_output=not fused_add_norm, **model_options(given),
        )  # fmt: skip
        if add_pool_norm:
            self.pool_norm = nn.LayerNorm(embed_dim, device=device, dtype=dtype)
        self.arguments = given
        self.set_grad_checkpointing(use_checkpoint and checkpoint_num > 0)
        accept_official_names(self)

    def forward_features(  # type: ignore[override]
        self, x: Tensor, mask: Tensor | None = None, use_image: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Clips ``(B, C, T, H, W)`` -> visible tokens ``(B, L, D)`` and the features of blocks ``(K, B, L, D)``."""
        return self.encode(x, mask, use_image)

    def forward(  # type: ignore[override]
        self, x: Tensor, mask: Tensor | None = None, use_image: bool = False, keep_temporal: bool = False
    ) -> tuple[Tensor | None, ...]:
        """Clips -> tokens without the class token, pooled ones with ``add_pool_norm``, predicted features or None.

        Args:
            x: ``(B, C, T, H, W)``, with ``use_image`` of one tubelet.
            mask: Hidden tokens ``(B, 1 + tubelets * patches)``; None hides none.
            keep_temporal: Pool each frame alone.
        """
        tokens, features = self.encode(x, mask, use_image)
        predicted = None if mask is None else self.decode(features, mask, use_image)
        if not self.add_pool_norm:
            return tokens, predicted
        token, patches = tokens[:, :1], tokens[:, 1:]
        if self.pool_type == "cls":
            return patches, self.pool_norm(token), predicted
        frames = x.shape[2] if keep_temporal else 1
        mean = patches.unflatten(1, (frames, -1)).mean(2)
        if self.pool_type == "avg":
            pooled = mean
        elif self.pool_type == "cls_cat_avg" and not keep_temporal:
            pooled = torch.cat([token, mean], dim=1)
        else:
            pooled = token + mean
        return patches, self.pool_norm(pooled), predicted
