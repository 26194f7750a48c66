"""Rotary position embedding over a grid of patches, as Vim's first release used it (after EVA-02)."""

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn

from .checks import check_sizes, check_tokens


@register_notrace_module  # sizes decide, which FX cannot follow
class GridRope(nn.Module):
    """Rotates pairs of channels by an angle that grows with a patch's row (first half of the channels) or
    column.

    Positions are stretched to ``base_size`` rows and columns, whatever the grid, so a larger image sees the
    same range of angles. There are no parameters and no buffers: the tables follow from the grid.

    Args:
        dim: Width of a token, a multiple of 4.
        base_size: Rows and columns of the grid that positions are stretched to.
        theta: Base of the geometric series of frequencies.

    Raises:
        ValueError: ``dim`` is not a positive multiple of 4, or ``base_size`` is not positive.
    """

    def __init__(self, dim: int, base_size: int = 14, theta: float = 10000.0) -> None:
        super().__init__()
        check_sizes(dim=dim, base_size=base_size)
        if dim % 4:
            raise ValueError(f"dim: expected a multiple of 4, got {dim}")
        self.dim = dim
        self.base_size = base_size
        self.theta = theta

    def tables(self, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines of every patch, float32 ``(height * width, dim)``."""
        half = self.dim // 2
        steps = torch.arange(0, half, 2, device=device)[: half // 2]
        frequency = 1.0 / (self.theta ** (steps.float() / half))
        rows = torch.arange(height, device=device) / height * self.base_size
        columns = torch.arange(width, device=device) / width * self.base_size
        by_row = (rows[:, None] * frequency).repeat_interleave(2, dim=-1)
        by_column = (columns[:, None] * frequency).repeat_interleave(2, dim=-1)
        shape = (height, width, half)
        angle = torch.cat([by_row[:, None].expand(shape), by_column[None].expand(shape)], dim=-1).flatten(
            0, 1
        )
        return angle.cos(), angle.sin()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, first: int) -> Tensor:
        """Rotates the tokens of ``x (B, L, D)`` from ``first`` on, as many as the tables have rows.

        Raises:
            ValueError: ``x`` is not such a sequence, or has too few tokens.
        """
        x = check_tokens(x, self.dim)
        count = cos.shape[0]
        if x.shape[1] < first + count:
            raise ValueError(f"x: expected at least {first + count} tokens, got {x.shape[1]}")
        body = x[:, first : first + count]
        even, odd = body[..., 0::2], body[..., 1::2]
        turned = torch.stack((-odd, even), dim=-1).flatten(-2)
        rotated = (body * cos + turned * sin).to(x.dtype)
        return torch.cat([x[:, :first], rotated, x[:, first + count :]], dim=1)
