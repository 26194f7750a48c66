"""The VM-UNet authors' constructors (JCruan519/VM-UNet: models/vmunet), returning our module.

Arguments keep their names, positions, defaults and meaning, and ``load_state_dict`` takes the authors' keys, also of
their ``best.pth``, which begin with ``vmunet.``. `official_state_dict` and `official_gradients` write state and
gradients back under their names. `vimzoo.models.VMUNet` documents each option.

Upstream bugs that are not imitated: files with the names of VMamba's later releases fill the blocks, too; images whose
sides are not multiples of 32 are padded; an unknown argument is refused. Arguments without effect in theirs have none
here: ``attn_drop_rate`` and ``use_checkpoint``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vimzoo import models

from .official import accept_official_names, official_gradients, official_state_dict

__all__ = ["VSSM", "VMUNet", "official_gradients", "official_state_dict"]

PREFIX = "vmunet."


class VSSM(models.VMUNet):
    """Their U-shaped network: logits of every class.

    Raises:
        ValueError: a number is not positive, there is dropout, the two sides differ in stages, or the decoder's widths
            are not the encoder's.
    """

    def __init__(
        self,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        depths: Sequence[int] = (2, 2, 9, 2),
        depths_decoder: Sequence[int] = (2, 9, 2, 2),
        dims: Sequence[int] = (96, 192, 384, 768),
        dims_decoder: Sequence[int] = (768, 384, 192, 96),
        d_state: int | None = 16,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
    ) -> None:
        if drop_rate != 0:
            raise ValueError(f"drop_rate={drop_rate}: expected 0; there is no dropout")
        if list(dims_decoder) != list(dims)[::-1]:
            raise ValueError(f"dims_decoder={list(dims_decoder)}: expected {list(dims)[::-1]}, as dims say")
        states = -(-dims[0] // 6) if d_state is None else d_state
        super().__init__(
            patch_size, in_chans, num_classes, depths, depths_decoder, dims, states, patch_norm, repeat_grey=False,
            drop_path_rate=drop_path_rate,
        )  # fmt: skip
        accept_official_names(self)


class VMUNet(models.VMUNet):
    """Their model: probabilities of one class, logits of several.

    Args:
        input_channels, num_classes, depths, depths_decoder, drop_path_rate: As theirs.
        load_ckpt_path: A file of VMamba, which `load_from` loads.

    Raises:
        ValueError: a number is not positive, or the two sides differ in stages.
    """

    def __init__(
        self,
        input_channels: int = 3,
        num_classes: int = 1,
        depths: Sequence[int] = (2, 2, 9, 2),
        depths_decoder: Sequence[int] = (2, 9, 2, 2),
        drop_path_rate: float = 0.2,
        load_ckpt_path: str | None = None,
    ) -> None:
        super().__init__(
            in_chans=3, num_classes=num_classes, depths=depths, decoder_depths=depths_decoder,
            drop_path_rate=drop_path_rate,
        )  # fmt: skip
        self.in_chans, self.load_ckpt_path = input_channels, load_ckpt_path
        accept_official_names(self)

    def load_from(self) -> None:
        """Begin with the file ``load_ckpt_path``, if there is one.

        Raises:
            CheckpointError: it is not a VMamba of the first release.
        """
        if self.load_ckpt_path is not None:
            print(self.load_encoder(self.load_ckpt_path))

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Also with the prefix of their files."""
        names = [name.removeprefix(PREFIX) for name in state_dict]
        return super().load_state_dict(dict(zip(names, state_dict.values(), strict=True)), strict, assign)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 1 or 3, H, W) -> probabilities (B, 1, H, W), or logits of several classes."""
        scores = super().forward(x.repeat(1, 3, 1, 1) if x.shape[1] == 1 else x)
        return torch.sigmoid(scores) if self.num_classes == 1 else scores
