"""Layers for feature maps with channels last, ``(B, H, W, C)``: activations and norms.

Convolutions of such maps are plain `torch.nn.Conv2d`, between two permutations. A permuted view has torch's
channels-last memory format, so nothing is copied on the way in or out.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .checks import check_map, check_sizes

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "none": nn.Identity,
}


def activation(name: str) -> nn.Module:
    """``"silu"``, ``"gelu"`` (exact), ``"relu"``, ``"sigmoid"`` or ``"none"`` as a module.

    Raises:
        ValueError: ``name`` is not one of these.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"act: expected one of {tuple(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]()


class MapBatchNorm(nn.Module):
    """Batch norm of ``(B, H, W, C)``; the statistics are in ``bn``, which SyncBatchNorm can replace.

    Args:
        dim: Channels C.
        eps: Added to the variance.
        axes: 4, or 5 for volumes ``(B, D, H, W, C)``.

    Raises:
        ValueError: ``dim`` is not positive.
    """

    def __init__(
        self,
        dim: int,
        eps: float = 1e-5,
        axes: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim)
        self.dim = dim
        self.axes = axes
        norm = nn.BatchNorm2d if axes == 4 else nn.BatchNorm3d
        self.bn = norm(dim, eps, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C)``, normalised per channel over everything else.

        Raises:
            ValueError: ``x`` is not such a map.
        """
        x = check_map(x, self.dim, axes=self.axes)
        return self.bn(x.movedim(-1, 1)).movedim(1, -1)


class Permute(nn.Module):
    """``x.permute(dims)`` as a module, for use in a `torch.nn.Sequential`."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        """A view of ``x`` with its axes in the order ``dims``."""
        return x.permute(self.dims)


class SpatialSoftmax(nn.Module):
    """Softmax over the positions of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C)`` or ``(B, D, H, W, C)``, positive and of sum 1 per channel."""
        return x.flatten(1, -2).softmax(1).reshape(x.shape)


def map_norm(kind: str, dim: int, eps: float = 1e-5, axes: int = 4, **dd: Any) -> nn.Module:
    """Norm of the channels of a map, or of a volume with 5 axes: ``"layer"``, ``"batch"`` or ``"none"``.

    Raises:
        ValueError: ``kind`` is none of them.
    """
    if kind == "layer":
        return nn.LayerNorm(dim, eps, **dd)
    if kind == "batch":
        return MapBatchNorm(dim, eps, axes, **dd)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"norm: expected 'layer', 'batch' or 'none', got {kind!r}")
