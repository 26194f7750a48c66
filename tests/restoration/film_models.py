"""Networks whose results are known."""

import os
import signal

import torch
from torch import Tensor, nn

from vimzoo.models.restoration_base import RestorationModel


class Same(RestorationModel):
    """Returns its input, with each pixel repeated ``scale`` times across and down."""

    def __init__(self, scale: int = 1) -> None:
        super().__init__()
        self.scale, self.in_chans = scale, 3
        self.feature_info: list = []
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)


class Stops(Same):
    """Ends its process, or fails, at the n-th frame."""

    def __init__(self, frames: int, kill: bool = False) -> None:
        super().__init__()
        self.left, self.kill = frames, kill

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left < 0:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("stopped here")
        return super().forward(x)
