"""The block of MILA (Han et al. 2024) and Spatial-Mamba: a mixer and an MLP, each after a convolution."""

from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from vimzoo.ops import inference

from .checks import check_map, check_norm_dtype, check_rates, check_sizes, inner_width
from .linear import functions_are_replaced, is_plain, passes_on
from .mlp import Mlp
from .plain import apply_norm, is_depthwise


class ConvPosition(nn.Module):
    """``x`` plus its depthwise 3 x 3 convolution, a conditional position encoding (Chu et al. 2021).

    Args:
        dim: Channels C.
    """

    def __init__(
        self, dim: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, H, W, C)``."""
        if not torch.jit.is_scripting():
            y = self.in_one_pass(x)
            if y is not None:
                return y
        return x + self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    @torch.jit.ignore
    def in_one_pass(self, x: Tensor) -> Tensor | None:
        """The layer in inference; ``None`` where torch's convolution has to run."""
        conv: Any = self.conv
        if (
            is_plain(conv, nn.Conv2d)
            and is_depthwise(conv)
            and inference.can_infer(x, conv.weight, conv.bias)
            and not functions_are_replaced()
        ):
            return inference.depthwise(x, conv.weight, conv.bias, silu=False).add_(x)
        return None


class PositionBlock(nn.Module):
    """On maps with channels last: ``x + conv(x)``, ``x + mixer(norm(x))``, ``x + conv(x)``, ``x + mlp(norm(x))``.

    Args:
        dim: Channels C of the map.
        mixer: From a map ``(B, H, W, C)`` to the same.
        mlp_ratio: Hidden width of the MLP in multiples of ``dim``.
        mlp_drop_rate: Its dropout.
        drop_path: Rate at which the mixer and the MLP are dropped.

    Raises:
        ValueError: a size is not positive, or a rate is not in 0..1.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        mlp_ratio: float = 4.0,
        mlp_drop_rate: float = 0.0,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(dim=dim)
        check_rates(drop_path=drop_path)
        self.dim = dim
        self.cpe1 = ConvPosition(dim, **dd)
        self.norm1 = nn.LayerNorm(dim, **dd)
        self.mixer = mixer
        self.cpe2 = ConvPosition(dim, **dd)
        self.norm2 = nn.LayerNorm(dim, **dd)
        hidden = inner_width("mlp_ratio", mlp_ratio, dim)
        self.mlp = Mlp(dim, hidden, drop_rate=mlp_drop_rate, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C) -> (B, H, W, C)``.

        Raises:
            ValueError: ``x`` is not such a map, has no positions, or is of float64 and the weights are not.
        """
        x = check_map(x, self.dim, 3, 1)
        if torch.jit.is_scripting():
            x = self.cpe1(x)
            x = x + self.drop_path(self.mixer(self.norm1(x)))
            x = self.cpe2(x)
            return x + self.drop_path(self.mlp(self.norm2(x)))
        check_norm_dtype(x, self.norm1)
        x = self.cpe1(x)
        x = x + self.drop_path(self.mixer(apply_norm(self.norm1, x)))
        x = self.cpe2(x)
        return self._add_mlp(x)

    @torch.jit.ignore
    def _add_mlp(self, x: Tensor) -> Tensor:
        mlp: Any = self.mlp
        drop: Any = self.drop_path
        if is_plain(mlp, Mlp) and passes_on(drop):
            added = mlp.in_one_call(x, self.norm2, add=True)
            if added is not None:
                return added
        return x + drop(mlp(apply_norm(self.norm2, x)))
