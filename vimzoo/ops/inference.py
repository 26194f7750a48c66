"""Inference on the CPU: what layers run in place of several of torch's operators, without a backward pass.

Callers ask `can_infer` first, which excludes everything that has to see torch's operators: autograd, tracers,
compilers, modes, autocast and a forced backend other than ``cpu``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import backends
from .runtime import native, threads
from .runtime.abi import DTYPES, address
from .runtime.library import is_inference
from .runtime.prepared import Prepared, can_be_prepared

__all__ = ["can_infer", "can_pack", "conv", "depthwise", "forget_packed", "layer_norm", "mlp", "takes_mlp"]

HIDDEN_BYTES, FEWEST_ROWS = 1 << 19, 512
"""Of an MLP's hidden layer at a time, which stays in the second-level cache; oneDNN packs the weights every time."""
FEW_PIXELS = 2048
"""With more output pixels than these, packing a convolution's weight at each call costs little."""
_mkldnn = torch.ops.mkldnn
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and all(
    hasattr(_mkldnn, name)
    for name in ("_linear_pointwise", "_reorder_convolution_weight", "_convolution_pointwise")
)
_ONEDNN_DTYPES = {torch.float32: True, torch.bfloat16: _HAS_ONEDNN and _mkldnn._is_mkldnn_bf16_supported()}


def can_infer(x: Tensor, *parameters: Tensor | None) -> bool:
    """Whether the functions of this module may take these tensors: of one dtype that the native library knows."""
    if not is_inference(x, *parameters):
        return False
    dtype = x.dtype
    for p in parameters:
        if p is not None and p.dtype is not dtype:
            return False
    return dtype in DTYPES and runs_here() and x.numel() > 0


def runs_here() -> bool:
    """Whether there is a native library, and no other backend is forced."""
    return native.load()[0] is not None and backends.forced_backend() in (None, "cpu")


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, gate: Tensor | None = None, gelu: bool = False
) -> Tensor:
    """LayerNorm over the last axis, times ``silu(gate)`` if there is a gate, or GELU of it.

    Args:
        x: ``(..., C)``.
        weight, bias: ``(C,)``.
        eps: Added to the variance.
        gate: The shape of ``x``.
        gelu: Whether GELU follows.

    Returns:
        ``(..., C)``, dense.
    """
    x = x.contiguous()
    out = torch.empty_like(x)
    channels = x.shape[-1]
    weight, bias = native.float_parameter(weight), native.float_parameter(bias)  # type: ignore[assignment]
    if gate is not None:
        gate = native.with_unit_last_stride(gate.reshape(-1, channels))
    native.require().add_norm_forward(native.AddNormArgs(
        rows=x.numel() // channels, channels=channels, threads=threads.for_work(0.5 * x.numel()), x=address(x),
        x_dtype=DTYPES[x.dtype], weight=address(weight), bias=address(bias), eps=eps, out=address(out),
        gate=address(gate), gate_row=0 if gate is None else gate.stride(0), gelu=int(gelu),
    ))  # fmt: skip
    return out


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, dilation: int = 1) -> Tensor:
    """Depthwise 3 x 3 convolution that keeps the size of the map, and SiLU.

    Args:
        x: Map ``(B, H, W, C)``.
        weight: ``(C, 1, 3, 3)``.
        bias: ``(C,)``.
        silu: Whether SiLU follows.
        dilation: Pixels from tap to tap, and padding.

    Returns:
        ``(B, H, W, C)``, dense.
    """
    x = native.with_unit_last_stride(x)
    out = x.new_empty(x.shape)
    weight, bias = native.float_parameter(weight), native.float_parameter(bias)  # type: ignore[assignment]
    batch, height, width, channels = x.shape
    native.require().depthwise_forward(native.DepthwiseArgs(
        batch=batch, height=height, width=width, channels=channels, silu=int(silu), dtype=DTYPES[x.dtype],
        dilation=dilation, threads=threads.for_work(0.3 * x.numel()), x=address(x), x_b=x.stride(0),
        x_h=x.stride(1), x_w=x.stride(2), weight=address(weight), bias=address(bias), out=address(out),
    ))  # fmt: skip
    return out


def takes_mlp(dtype: torch.dtype) -> bool:
    """Whether `mlp` can run in this dtype here."""
    return _HAS_ONEDNN and _ONEDNN_DTYPES.get(dtype, False)


def mlp(x: Tensor, weight1: Tensor, bias1: Tensor | None, weight2: Tensor, bias2: Tensor | None) -> Tensor:
    """``gelu(x weight1^T + bias1) weight2^T + bias2``, some rows at a time.

    GELU is applied where oneDNN's product leaves the processor's registers, and the hidden layer is not written to
    memory.

    Args:
        x: ``(..., I)``.
        weight1, bias1: ``(H, I)`` and ``(H,)``.
        weight2, bias2: ``(O, H)`` and ``(O,)``.

    Returns:
        ``(..., O)``.
    """
    product = _mkldnn._linear_pointwise.default

    def of(rows: Tensor) -> Tensor:
        return product(product(rows, weight1, bias1, "gelu", [], "none"), weight2, bias2, "none", [], "")

    step = HIDDEN_BYTES * torch.get_num_threads() // (weight1.shape[0] * x.element_size())
    step = max(FEWEST_ROWS * torch.get_num_threads(), step)
    rows = x.reshape(-1, x.shape[-1])
    shape = (*x.shape[:-1], weight2.shape[0])
    if len(rows) < 2 * step:
        return of(rows).view(shape)
    out = x.new_empty(shape)
    for part, result in zip(rows.split(step), out.view(len(rows), -1).split(step), strict=True):
        result.copy_(of(part))
    return out


def _pack(weight: Tensor, padding: tuple, stride: tuple, dilation: tuple, input_size: tuple) -> Tensor:
    return _mkldnn._reorder_convolution_weight(weight, padding, stride, dilation, 1, input_size)


_packed = Prepared(_pack)


def can_pack(weight: Tensor, pixels: int) -> bool:
    """Whether `conv` can take a weight, and pays with so many output pixels."""
    return (
        _HAS_ONEDNN
        and _ONEDNN_DTYPES.get(weight.dtype, False)
        and pixels <= FEW_PIXELS
        and can_be_prepared(weight)
    )


def conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple, stride: tuple, dilation: tuple
) -> Tensor:
    """Dense convolution by oneDNN whose weight is packed at the first call; torch packs it at every call.

    Args:
        x: ``(B, I, H, W)``.
        weight: ``(O, I, h, w)``, of which `can_pack` is true.
        bias: ``(O,)``.
        padding, stride, dilation: Two numbers each.

    Returns:
        ``(B, O, H', W')``.
    """
    packed = _packed(weight, padding, stride, dilation, tuple(x.shape))
    return _mkldnn._convolution_pointwise(x, packed, bias, padding, stride, dilation, 1, "none", [], "")


def forget_packed(weight: Tensor) -> None:
    """Drop the packed form of a weight that is being trained."""
    _packed.forget(weight)
