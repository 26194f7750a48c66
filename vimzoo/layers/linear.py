"""`torch.nn.Linear` on this package's matrix product."""

import torch
from torch import Tensor, nn

import vimzoo.ops  # noqa: F401  registers torch.ops.vimzoo


class Linear(nn.Linear):
    """`torch.nn.Linear`, same parameters and results; on the CPU oneDNN makes the product, see `vimzoo.ops.linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """``(..., I) -> (..., O)``."""
        return torch.ops.vimzoo.linear(input, self.weight, self.bias)
