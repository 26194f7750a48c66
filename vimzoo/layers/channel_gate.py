"""A gate per channel, computed from the mean of normalised tokens (Huang et al. 2024, section 3.3)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_sizes
from .linear import apply_linear
from .plain import apply_norm


class ChannelGate(nn.Module):
    """Tokens times ``sigmoid(select(GELU(reduce(mean of norm(tokens)))))``.

    Args:
        dim: Channels D, at least 8; the inner width is an eighth.

    Raises:
        ValueError: ``dim`` is less than 8.
    """

    def __init__(
        self, dim: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(dim=dim)
        if dim < 8:
            raise ValueError(f"dim: expected at least 8 channels, got {dim}")
        self.norm = nn.LayerNorm(dim, **dd)
        self.reduce = nn.Linear(dim, dim // 8, **dd)
        self.select = nn.Linear(dim // 8, dim, **dd)

    def gated(self, y: Tensor) -> Tensor:
        """``(..., L, D)``, each channel times its gate, which sees the L tokens."""
        if torch.jit.is_scripting():
            gate = self.select(F.gelu(self.reduce(self.norm(y).mean(-2, keepdim=True))))
        else:
            summary = apply_norm(self.norm, y).mean(-2, keepdim=True)
            gate = apply_linear(self.select, F.gelu(apply_linear(self.reduce, summary)))
        return y * gate.sigmoid()

    def forward(self, y: Tensor) -> Tensor:
        """As `gated`."""
        return self.gated(y)
