"""The inputs of the residual norm by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..runtime.call import Call


def stream_dtype(x: Tensor, residual: Tensor | None, residual_in_fp32: bool) -> torch.dtype:
    """Dtype of the new stream: that of the stream so far, or of ``x``, widened to float32 on request."""
    base = x.dtype if residual is None else residual.dtype
    return torch.float32 if residual_in_fp32 and base in (torch.bfloat16, torch.float16) else base


@dataclass(slots=True)
class NormCall(Call):
    """The inputs of ``vimzoo::add_norm``, as `vimzoo.ops.add_norm` describes them."""

    DIFFERENTIABLE: ClassVar[int] = 4

    x: Tensor
    residual: Tensor | None
    weight: Tensor
    bias: Tensor | None
    eps: float
    rms: bool
    residual_in_fp32: bool

    @property
    def first(self) -> Tensor:
        """The input."""
        return self.x

    @property
    def channels(self) -> int:
        """Width D of a row."""
        return self.x.shape[-1]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.x.numel() // self.channels if self.x.numel() else 0

    @property
    def stream_dtype(self) -> torch.dtype:
        """As `stream_dtype` says."""
        return stream_dtype(self.x, self.residual, self.residual_in_fp32)
