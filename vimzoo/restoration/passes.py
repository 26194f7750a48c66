"""Wraps the model for a batch of tiles: channels, flips and rotations."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

__all__ = ["FLIPS", "flipped", "flipped_back", "for_channels"]

Run = Callable[[Tensor], Tensor]
FLIPS = 8
"""The flips and rotations of a square: transposed or not, upside down or not, mirrored or not."""
LUMA = (0.299, 0.587, 0.114)  # BT.601, as in JPEG


def for_channels(run: Run, channels: int, model_channels: int, scale: int) -> Run:
    """A model of ``model_channels`` on images of ``channels``, each 1 (grey) or 3 (RGB).

    A colour model gets grey as three equal channels, and the luma of its output is used. A grey model gets luma; the
    differences of the channels from luma (JPEG's chroma) are kept and enlarged bicubically.

    Raises:
        ValueError: one number is 1 or 3 and the other is not.
    """
    if channels == model_channels:
        return run
    if (channels, model_channels) == (1, 3):
        return lambda x: _luma(run(x.expand(-1, 3, -1, -1)))
    if (channels, model_channels) == (3, 1):

        def on_luma(x: Tensor) -> Tensor:
            grey = _luma(x)
            colour = x - grey
            if scale > 1:
                colour = F.interpolate(colour, scale_factor=scale, mode="bicubic", align_corners=False)
            return run(grey) + colour

        return on_luma
    raise ValueError(f"a model of {model_channels} channels cannot restore {channels}")


def _luma(x: Tensor) -> Tensor:
    return (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def flipped(x: Tensor, which: int) -> Tensor:
    """One of the 8 flips and rotations of images ``(B, C, H, W)``; 0 is the identity."""
    x = x.transpose(2, 3) if which & 4 else x
    return x.flip([axis for axis, bit in ((2, 1), (3, 2)) if which & bit]).contiguous()


def flipped_back(x: Tensor, which: int) -> Tensor:
    """Undo `flipped`."""
    x = x.flip([axis for axis, bit in ((2, 1), (3, 2)) if which & bit])
    return x.transpose(2, 3) if which & 4 else x
