"""Plain `torch.nn` layers on the CPU: faster forms of norms and convolutions of maps with channels last.

As with `vimzoo.layers.linear.apply_linear`, models hold torch's own modules, and whatever else stands in their place (a
subclass, an adapter, a layer with hooks) is simply called. TorchScript cannot compile these functions.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vimzoo.ops import inference, linear, training
from vimzoo.ops.dense import WIDENED, is_widened
from vimzoo.ops.mixers import Norm
from vimzoo.ops.runtime.library import in_autocast, narrowed

from .linear import calls_are_watched, functions_are_replaced, is_plain, tensor_of


def apply_norm(layer: nn.Module, x: Tensor, gate: Tensor | None = None, gelu: bool = False) -> Tensor:
    """``layer(x)``, times ``silu(gate)`` if there is a gate of the same shape, or GELU of it.

    Args:
        layer: Any norm of the last axis; a plain `torch.nn.LayerNorm` is computed in one pass.
        x: ``(..., C)``.
        gate: ``(..., C)``.
        gelu: Whether GELU follows.

    Returns:
        ``(..., C)``.
    """
    if (
        is_plain(layer, nn.LayerNorm)
        and inference.can_infer(x, layer.weight, layer.bias)  # type: ignore[arg-type]
        and is_layer_norm(layer, x.shape[-1])  # after the first, which is false of x in a traced graph
        and (gate is None or (gate.shape == x.shape and gate.dtype == x.dtype))
        and not functions_are_replaced()
    ):
        return inference.layer_norm(x, layer.weight, layer.bias, layer.eps, gate, gelu)  # type: ignore[arg-type]
    if (
        is_plain(layer, nn.LayerNorm)
        and training.can_train(x, layer.weight, layer.bias)  # type: ignore[arg-type]
        and is_layer_norm(layer, x.shape[-1])
        and not calls_are_watched()
    ):
        y = training.layer_norm(x, layer.weight, layer.bias, layer.eps)  # type: ignore[arg-type]
    else:
        y = layer(x)
    y = y if gate is None else y * F.silu(gate)
    return F.gelu(y) if gelu else y


def apply_conv(layer: nn.Module, x: Tensor, act: nn.Module | None = None) -> Tensor:
    """A convolution of a map with channels last, and an activation.

    A 1 x 1 convolution is a matrix product, and a depthwise 3 x 3 one, dilated or not, runs on the native library. In
    inference that is with SiLU in one pass, and the weight of a dense one with few output pixels is packed once.

    Args:
        layer: Any module from ``(B, I, H, W)`` to ``(B, O, H', W')``, or of volumes.
        x: ``(B, H, W, I)``, or a volume ``(B, D, H, W, I)``.
        act: What is applied to the result.

    Returns:
        ``(B, H', W', O)``.
    """
    weight = layer.weight if is_plain(layer, nn.Conv2d) and not torch.compiler.is_compiling() else None
    y: Tensor | None = None
    if isinstance(weight, Tensor) and torch.is_grad_enabled():
        if weight.requires_grad:
            inference.forget_packed(weight)
        y = _trained(layer, weight, x)
    elif (
        isinstance(weight, Tensor)
        and layer.padding_mode == "zeros"
        and isinstance(layer.padding, tuple)
        and inference.can_infer(x, weight, layer.bias)  # type: ignore[arg-type]
        and x.dim() == 4
        and not functions_are_replaced()
    ):
        silu = is_plain(act, nn.SiLU)
        if is_depthwise(layer, dilated=True) and x.shape[3] == len(weight):
            y = inference.depthwise(x, weight, layer.bias, silu, layer.dilation[0])  # type: ignore[arg-type,index]
            act = None if silu else act
        else:
            y = _dense(layer, weight, x)
    if y is None:
        y = convolved(layer, x.movedim(-1, 1))
        if is_plain(act, nn.SiLU):  # before the axes are moved: OpenVINO moves the data for what comes after
            y, act = F.silu(y), None
        y = y.movedim(1, -1)
    return y if act is None else act(y)


def _trained(layer: Any, weight: Tensor, x: Tensor) -> Tensor | None:
    """A convolution where gradients may be wanted; ``None`` of one that torch runs as fast."""
    if in_autocast("cpu"):
        x = narrowed(x, torch.get_autocast_dtype("cpu"))
    elif x.dtype is not weight.dtype:
        return None  # which torch refuses
    plain = layer.padding_mode == "zeros" and isinstance(layer.padding, tuple) and x.dim() == 4
    if not plain or x.shape[3] != layer.in_channels or not training.can_train(x, weight, layer.bias):
        return None
    if calls_are_watched():
        return None
    if is_depthwise(layer, dilated=True):
        return training.depthwise(x, weight, layer.bias, layer.dilation[0])
    return linear(x, weight.flatten(1), layer.bias) if _is_product(layer) else None


def _is_product(layer: Any) -> bool:
    """Whether a convolution is a matrix product of every pixel."""
    return layer.kernel_size == layer.stride == (1, 1) and layer.padding == (0, 0) and layer.groups == 1


def convolved(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)`` of a map with channels first; in float32 where torch's convolution of its dtype is much slower.

    In inference a convolution of separate patches is a matrix product.

    Args:
        layer: Any module from ``(B, I, H, W)`` to ``(B, O, H', W')``, or the same of volumes.
        x: ``(B, I, H, W)``.

    Returns:
        ``(B, O, H', W')``.
    """
    if not is_plain(layer, nn.Conv2d) or layer.padding_mode != "zeros" or functions_are_replaced():
        return layer(x)
    conv: Any = layer
    weight, bias = conv.weight, conv.bias
    if inference.can_infer(x, weight, bias) and _cuts_patches(conv, x):
        (down, right), (batch, channels) = conv.stride, x.shape[:2]
        height, width = x.shape[2] // down, x.shape[3] // right
        patches = x[:, :, : height * down, : width * right].reshape(
            batch, channels, height, down, width, right
        )
        rows = patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, height, width, -1)
        return linear(rows, weight.flatten(1), bias).permute(0, 3, 1, 2)
    if WIDENED and is_widened(x, weight, bias):
        y = F.conv2d(
            x.float(), weight.float(), None if bias is None else bias.float(), conv.stride, conv.padding,
            conv.dilation, conv.groups,
        )  # fmt: skip
        return y.to(x.dtype)
    return layer(x)


def _cuts_patches(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether a convolution maps patches of a map with channels first that do not overlap and have rows to copy."""
    return (
        conv.stride == conv.kernel_size
        and conv.stride[1] >= 4
        and conv.dilation == (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
        and x.dim() == 4
        and x.is_contiguous()
        and x.shape[1] == conv.in_channels
        and min(x.shape[2] // conv.stride[0], x.shape[3] // conv.stride[1]) > 0
    )


def is_layer_norm(layer: nn.Module | None, width: int) -> bool:
    """Whether this is a plain `torch.nn.LayerNorm` with a weight, of a last axis of ``width``."""
    return (
        is_plain(layer, nn.LayerNorm)
        and tensor_of(layer, "weight") is not None  # type: ignore[arg-type]
        and layer.normalized_shape == (width,)  # type: ignore[union-attr]
    )


def layer_norm_of(layer: nn.Module | None, width: int) -> Norm | None:
    """Such a norm for a call in one of `vimzoo.ops.mixers`; ``None`` of any other."""
    if not is_layer_norm(layer, width):
        return None
    norm: Any = layer
    return Norm(tensor_of(norm, "weight"), tensor_of(norm, "bias"), norm.eps, rms=False)


def is_depthwise(layer: nn.Module, dilated: bool = False) -> bool:
    """Whether a convolution is a depthwise 3 x 3 one that keeps the size of the map and pads with zeros.

    Args:
        layer: The convolution.
        dilated: Whether it may have a dilation, the same on both axes.
    """
    distance = layer.dilation[0] if dilated else 1  # type: ignore[index]
    return (
        layer.padding_mode == "zeros"
        and layer.groups == layer.in_channels == layer.out_channels
        and layer.kernel_size == (3, 3)
        and layer.stride == (1, 1)
        and layer.padding == layer.dilation == (distance, distance)
    )


def _dense(layer: nn.Module, weight: Tensor, x: Tensor) -> Tensor | None:
    """``None`` for a convolution that torch runs as fast."""
    if layer.groups != 1 or x.shape[3] != layer.in_channels:
        return None
    if _is_product(layer):
        return linear(x, weight.flatten(1), layer.bias)  # type: ignore[arg-type]
    if is_widened(x, weight):
        return convolved(layer, x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    stride: tuple[int, int] = layer.stride  # type: ignore[assignment]
    pixels = x.shape[0] * (x.shape[1] // stride[0]) * (x.shape[2] // stride[1])
    if not inference.can_pack(weight, pixels):
        return None
    y = inference.conv(
        x.permute(0, 3, 1, 2), weight, layer.bias, layer.padding, stride, layer.dilation  # type: ignore[arg-type]
    )  # fmt: skip
    return y.permute(0, 2, 3, 1)


def apply_convs(layers: nn.Module, x: Tensor) -> Tensor:
    """A `torch.nn.Sequential` of convolutions and activations, as `apply_conv` runs each of them.

    Args:
        layers: Any module from ``(B, I, H, W)`` to ``(B, O, H', W')``.
        x: ``(B, H, W, I)``.

    Returns:
        ``(B, H', W', O)``.
    """
    if not is_plain(layers, nn.Sequential):
        return apply_conv(layers, x)
    for layer in layers:  # type: ignore[attr-defined]
        x = apply_conv(layer, x)
    return x


def add_scaled(branch: Tensor, x: Tensor, scale: Tensor) -> Tensor:
    """``x * scale + branch``; in inference in one pass.

    Args:
        branch, x: ``(..., C)``.
        scale: ``(C,)``.

    Returns:
        ``(..., C)``.
    """
    if inference.can_infer(x, branch, scale):
        return torch.addcmul(branch, x, scale)
    return x * scale + branch
