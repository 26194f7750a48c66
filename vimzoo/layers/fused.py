"""Layers that end with a batch norm, and become one layer for inference.

``timm.models.reparameterize_model(model)`` replaces each of them by what its ``fuse`` returns: the same function of
fewer operations, from which training cannot go on.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .checks import check_sizes


def _folded(weight: Tensor, bias: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer followed by a batch norm, whose channels are the first axis of ``weight``."""
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    shift = shift if bias is None else shift + bias * scale
    return weight * scale.reshape(-1, *[1] * (weight.dim() - 1)), shift


def _with_parameters(layer: nn.Module, weight: Tensor, bias: Tensor) -> Any:
    layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return layer


class ConvNorm(nn.Sequential):
    """A convolution without bias and a batch norm, on maps ``(B, C, H, W)``.

    Args:
        in_chans, out_chans: Channels before and after.
        kernel_size: Odd; the map is padded by half of it.
        stride: Of the convolution.
        groups: Of the convolution.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(in_chans=in_chans, out_chans=out_chans, kernel_size=kernel_size, stride=stride)
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        padding = kernel_size // 2
        self.add_module(
            "conv",
            nn.Conv2d(in_chans, out_chans, kernel_size, stride, padding, groups=groups, bias=False, **dd),
        )
        self.add_module("bn", nn.BatchNorm2d(out_chans, **dd))

    @torch.jit.ignore
    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """The same as one convolution, with the statistics of evaluation mode."""
        old: Any = self.conv
        conv = nn.Conv2d(
            old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, groups=old.groups,
            device=old.weight.device, dtype=old.weight.dtype,
        )  # fmt: skip
        return _with_parameters(conv, *_folded(old.weight, old.bias, self.bn))


class ChannelBatchNorm(nn.Module):
    """Batch norm of the last axis over all others; the statistics are in ``bn``, which SyncBatchNorm can replace.

    Args:
        dim: Channels C.
    """

    def __init__(
        self, dim: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        check_sizes(dim=dim)
        self.dim = dim
        self.bn = nn.BatchNorm1d(dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C) -> (..., C)``."""
        return self.bn(x.reshape(-1, self.dim)).reshape(x.shape)


class LinearNorm(nn.Sequential):
    """A linear layer without bias and a batch norm of the last axis.

    Args:
        dim, out_dim: Channels before and after.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, out_dim=out_dim)
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.add_module("linear", nn.Linear(dim, out_dim, bias=False, **dd))
        self.add_module("norm", ChannelBatchNorm(out_dim, **dd))

    @torch.jit.ignore
    @torch.no_grad()
    def fuse(self) -> nn.Linear:
        """The same as one linear layer, with the statistics of evaluation mode."""
        old: Any = self.linear
        norm: Any = self.norm
        linear = nn.Linear(
            old.in_features, old.out_features, device=old.weight.device, dtype=old.weight.dtype
        )
        return _with_parameters(linear, *_folded(old.weight, old.bias, norm.bn))


class ChannelScale(nn.Module):
    """A factor per channel of the last axis, and a shift; a depthwise convolution of one pixel, stored as one.

    Args:
        dim: Channels C.
        bias: Whether to have the shift.
    """

    def __init__(
        self,
        dim: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty(dim, 1, 1, 1, **dd))
        self.bias = nn.Parameter(torch.empty(dim, **dd)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As a depthwise convolution of one pixel."""
        nn.init.uniform_(self.weight, -1.0, 1.0)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -1.0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C) -> (..., C)``."""
        x = x * self.weight.flatten()
        return x if self.bias is None else x + self.bias


class ScaleNorm(nn.Sequential):
    """A factor per channel and a batch norm of the last axis.

    Args:
        dim: Channels C.
    """

    def __init__(
        self, dim: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.add_module("scale", ChannelScale(dim, False, device, dtype))
        self.add_module("norm", ChannelBatchNorm(dim, device, dtype))

    @torch.jit.ignore
    @torch.no_grad()
    def fuse(self) -> ChannelScale:
        """The same as factors and shifts, with the statistics of evaluation mode."""
        parts: dict[str, Any] = dict(self.named_children())
        weight, norm = parts["scale"].weight, parts["norm"]
        scale = ChannelScale(len(weight), True, weight.device, weight.dtype)
        return _with_parameters(scale, *_folded(weight, None, norm.bn))


@torch.no_grad()
def norm_into_linear(norm: ChannelBatchNorm, linear: nn.Linear) -> nn.Linear:
    """``linear(norm(x))`` as one linear layer, with the statistics of evaluation mode."""
    bn: Any = norm.bn
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    shift = linear.weight @ (bn.bias - bn.running_mean * scale)
    fused = nn.Linear(
        linear.in_features, linear.out_features, device=linear.weight.device, dtype=linear.weight.dtype
    )
    bias = shift if linear.bias is None else linear.bias + shift
    return _with_parameters(fused, linear.weight * scale, bias)
