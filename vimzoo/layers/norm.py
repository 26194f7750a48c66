"""Normalisation fused with the residual addition before it, and instance norms."""

import torch
from torch import Tensor, nn

from vimzoo.ops import add_norm
from vimzoo.ops.mixers import Norm, Ready, prepare_norm

from .checks import check_sizes, check_tokens
from .linear import has_a_fast_form, tensor_of


@has_a_fast_form
class AddNorm(nn.Module):
    """Adds the last layer's output to the residual stream and normalises the sum, in one pass over memory.

    The stream is the sum of all layers' outputs so far; a block is ``x, stream = norm(x, stream); x =
    mixer(x)`` (Add, Norm, Mixer: Vim section 3.3, and Mamba before it). The layer after the last block adds
    its output.

    Args:
        dim: Width D of a token.
        norm: ``"rms"`` (Zhang & Sennrich 2019, a scale only) or ``"layer"`` (scale and shift).
        eps: Added to the mean square or the variance.
        residual_in_fp32: Keep the stream in float32 when tokens are bfloat16 or float16.

    Raises:
        ValueError: ``norm`` is neither name, or ``dim`` is not positive.
    """

    def __init__(
        self,
        dim: int,
        norm: str = "rms",
        eps: float = 1e-5,
        residual_in_fp32: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if norm not in ("rms", "layer"):
            raise ValueError(f"norm: expected 'rms' or 'layer', got {norm!r}")
        check_sizes(dim=dim)
        self.dim = dim
        self.eps = eps
        self.rms = norm == "rms"
        self.residual_in_fp32 = residual_in_fp32
        self.weight = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.bias = None if self.rms else nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scale 1, shift 0."""
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """``(B, L, D)`` tokens, and stream or ``None`` at the first block -> normalised tokens, new stream.

        Raises:
            ValueError: ``x`` has another width, or ``residual`` another shape.
        """
        x = check_tokens(x, self.dim, 0)
        return add_norm(
            x,
            residual,
            self.weight,
            self.bias,
            self.eps,
            rms=self.rms,
            residual_in_fp32=self.residual_in_fp32,
        )

    @torch.jit.ignore
    def prepare(self, x: Tensor, residual: Tensor | None) -> Ready | None:
        """The norm where `runs_in_one_call`, for tokens and a stream like these; ``None`` if it has to be called."""
        return prepare_norm(x, Norm(self.weight, tensor_of(self, "bias"), self.eps, self.rms), residual)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, norm={'rms' if self.rms else 'layer'}, eps={self.eps}"


class Add(nn.Module):
    """`AddNorm` without the norm, for feature extractors that want the stream itself."""

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """``(B, L, D)`` tokens and stream -> their sum in the tokens' dtype, and in the stream's."""
        stream = x if residual is None else x + residual
        return stream.to(x.dtype), stream


class InstanceNorm2d(nn.InstanceNorm2d):
    """torch's, for empty batches, too, which it refuses if the norm has weights."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, C, H, W)``."""
        return x if _is_empty(x) else super().forward(x)


class InstanceNorm3d(nn.InstanceNorm3d):
    """As `InstanceNorm2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, D, H, W) -> (B, C, D, H, W)``."""
        return x if _is_empty(x) else super().forward(x)


def _is_empty(x: Tensor) -> bool:
    return not torch.jit.is_tracing() and x.shape[0] == 0
