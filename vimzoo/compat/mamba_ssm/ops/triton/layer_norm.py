"""Residual addition and norm as functions and as a layer, in mamba_ssm's layout."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vimzoo.ops import add_norm

__all__ = ["RMSNorm", "layer_norm_fn", "rms_norm_fn"]


def layer_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
    return_dropout_mask: bool = False,
) -> Any:
    """Dropout, residual addition and norm over the last axis, `vimzoo.ops.add_norm`.

    Args:
        x: ``(..., D)``, what a mixer returned.
        weight, bias: ``(D,)``.
        residual: ``(..., D)``, the stream so far; the sum keeps its dtype.
        x1, weight1, bias1, return_dropout_mask: Must be left out.
        eps: Added to the variance.
        dropout_p: Rate at which numbers of ``x`` are dropped, in evaluation too.
        rowscale: ``(...)``, a factor for each row of ``x``.
        prenorm: Return the stream, too.
        residual_in_fp32: Start the stream in float32 where ``residual`` is ``None``.
        is_rms_norm: RMSNorm rather than LayerNorm.

    Returns:
        The norm in x's dtype, or with ``prenorm`` a pair with the stream.

    Raises:
        NotImplementedError: a second input or norm, or the dropout's mask, is asked for.
    """
    if any(given is not None for given in (x1, weight1, bias1)) or return_dropout_mask:
        raise NotImplementedError("x1, weight1, bias1, return_dropout_mask: expected to be left out")
    if rowscale is not None:
        x = x * rowscale.unsqueeze(-1)
    if dropout_p > 0.0:
        x = F.dropout(x, dropout_p)
    wide = residual_in_fp32 if residual is None else residual.dtype == torch.float32
    y, stream = add_norm(x, residual, weight, bias, eps, rms=is_rms_norm, residual_in_fp32=wide)
    return (y, stream) if prenorm else y


def rms_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    return_dropout_mask: bool = False,
) -> Any:
    """`layer_norm_fn` with RMSNorm."""
    return layer_norm_fn(
        x, weight, bias, residual, x1, weight1, bias1, eps, dropout_p, rowscale, prenorm, residual_in_fp32, True,
        return_dropout_mask,
    )  # fmt: skip


class RMSNorm(nn.Module):
    """RMSNorm (Zhang & Sennrich 2019) with mamba_ssm's arguments.

    Args:
        hidden_size: Width D.
        eps: Added to the mean square.
        dropout_p: Dropout of the input in training.
    """

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        dropout_p: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.drop = nn.Dropout(dropout_p) if dropout_p > 0.0 else None
        self.weight = nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scale 1."""
        nn.init.ones_(self.weight)

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        prenorm: bool = False,
        residual_in_fp32: bool = False,
    ) -> Any:
        """``(..., D)`` -> its norm, or with ``prenorm`` that and the stream, as `rms_norm_fn`."""
        rate = self.drop.p if self.drop is not None and self.training else 0.0
        return rms_norm_fn(
            x, self.weight, None, residual, eps=self.eps, dropout_p=rate, prenorm=prenorm,
            residual_in_fp32=residual_in_fp32,
        )  # fmt: skip
