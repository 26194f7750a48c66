"""Plain Mamba mixers on the positions of maps and volumes, as U-Mamba and SegMamba put them into U-nets."""

from typing import Any

import torch
from torch import Tensor, nn

from .bimamba import BiMamba
from .checks import check_floating
from .plain import apply_norm


class GridMamba(nn.Module):
    """Norm and `BiMamba` on the positions of a map ``(B, C, H, W)`` or volume ``(B, C, D, H, W)``, read row by row.

    U-Mamba (Ma et al. 2024, section 2) replaces feature maps by the output of such a layer, SegMamba (Xing et al. 2024,
    section 2.2) adds it to them and reads the slices in a third direction.

    Args:
        dim: Channels C; with ``channel_tokens`` the number of positions, which is then fixed.
        bimamba, slices: Directions, as in `BiMamba`; one by default.
        residual: Add the input to the output.
        channel_tokens: The tokens of the sequence are the channels, each of them a whole map, as U-Mamba has it for
            maps with no more positions than channels.
        mixer_args: Further keyword arguments of `BiMamba`.

    Raises:
        ValueError: as `BiMamba`.
    """

    def __init__(
        self,
        dim: int,
        bimamba: str = "none",
        slices: int = 1,
        residual: bool = True,
        channel_tokens: bool = False,
        mixer_args: dict[str, Any] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.channel_tokens = channel_tokens
        options: dict[str, Any] = {
            "divide_out": False,
            **(mixer_args or {}),
            "device": device,
            "dtype": dtype,
        }
        self.mixer = BiMamba(dim, bimamba, slices=slices, **options)
        self.norm = nn.LayerNorm(dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map or volume -> the same shape.

        Raises:
            TypeError: ``x`` is not a tensor.
            ValueError: ``x`` has another number of channels, or of positions with ``channel_tokens``, or a number of
                positions that cannot be cut into the slices.
        """
        if not torch.jit.is_scripting():
            check_floating(x)
        if x.dim() < 3:
            raise ValueError(
                f"x: expected a map (B, C, H, W) or a volume (B, C, D, H, W), got {x.dim()} dimensions"
            )
        tokens = x.flatten(2)
        if not self.channel_tokens:
            tokens = tokens.transpose(1, 2)
        width = tokens.shape[2]
        if width != self.mixer.dim:
            kind = "positions" if self.channel_tokens else "channels"
            raise ValueError(f"x: expected {self.mixer.dim} {kind}, got {width}")
        normed = self.norm(tokens) if torch.jit.is_scripting() else apply_norm(self.norm, tokens)
        y = self.mixer(normed)
        if not self.channel_tokens:
            y = y.transpose(1, 2)
        y = y.reshape(x.shape)
        return x + y if self.residual else y

    def extra_repr(self) -> str:
        return f"residual={self.residual}, channel_tokens={self.channel_tokens}"
