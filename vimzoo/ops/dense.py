"""Matrix products with torch's oneDNN where that beats its default BLAS, and one product per direction.

On x86-64 processors torch sends float32 ``F.linear`` to MKL and bfloat16 to oneDNN. Where it was measured
(``benchmarks/results/*/cpu_linear.json``) oneDNN's float32 kernels are twice as fast as MKL's on AMD's Zen 5 and equal
on Zen 4, so float32 uses oneDNN too. Where oneDNN has no products of bfloat16 or float16, which is so without AVX-512,
torch falls back to a loop that takes several times as long as the product in float32. There operands are widened, and
the result is rounded once, as in torch's loop. With AVX2 and AVX-512 the native library's own product is as fast as
oneDNN's or faster for up to a few thousand rows, so inference uses it (``kernels/product``), and so does the gradient
of a float32 weight, of which oneDNN needs transposed copies. Tracers, the compiler, dispatch modes such as FLOP
counters, tensor subclasses, forward-mode AD and the transforms of `torch.func` see ``torch.nn.functional.linear``.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import backends
from .inference import can_infer
from .runtime import native, threads
from .runtime.abi import DTYPES, address
from .runtime.contract import ANY, Contract, Given
from .runtime.library import LIBRARY, check_tensors, is_eager, is_inference, without_autocast

LIBRARY.define("linear(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x weight^T + bias``, with one weight, or one per direction.

    The product is torch's own whichever backend is chosen or forced, except on a processor with AVX2 or AVX-512: in
    inference, and for the gradient of a float32 weight, it is the native library's unless another backend than ``cpu``
    is forced.

    Args:
        x: ``(..., I)``; with a weight per direction ``(B, L, K, I)``.
        weight: ``(O, I)``, or ``(K, O, I)`` for K directions.
        bias: ``(O,)``; only with one weight.

    Returns:
        ``(..., O)``, or ``(B, L, K, O)`` whose memory is K-major, each direction dense.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: an argument's rank, size or dtype does not fit.
        vimzoo.ops.BackendError: a backend is forced that cannot run on the device of ``x``.
    """
    if not torch.jit.is_scripting():
        check_tensors(("bias",), x=x, weight=weight, bias=bias)
        if is_inference(x, weight, bias):
            return _linear(x, weight, bias)
    return torch.ops.vimzoo.linear(x, weight, bias)


def _check_directions(given: Given) -> None:
    x, weight = given["x"], given["weight"]
    if weight.dim() == 2:
        return
    if x.dim() != 4 or x.shape[2] != weight.shape[0]:
        expected = f"(B, L, {weight.shape[0]}, {weight.shape[2]})"
        raise ValueError(f"x: expected {expected}, got shape {tuple(x.shape)} of {x.dtype}")
    if given["bias"] is not None:
        raise ValueError("bias: expected None with a weight per direction")


CONTRACT = Contract(
    "linear",
    {"weight": ("O I | K O I", ANY), "x": ("... I", ANY), "bias": ("O", ANY)},
    rest=_check_directions,
)

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_onednn_linear = torch.ops.mkldnn._linear_pointwise.default if _HAS_ONEDNN else None


_HAS_TILES = getattr(torch.cpu, "_is_amx_tile_supported", bool)()
"""Whether oneDNN multiplies tiles of 16 bits (AMX)."""
FEWEST_ROWS = 4
"""Rows from which on a product of widened operands is faster than torch's loop."""


def _without_onednn() -> frozenset[torch.dtype]:
    """The dtypes whose products torch computes in a loop of its own on this x86-64 processor."""
    if not _HAS_ONEDNN or platform.machine() not in ("x86_64", "AMD64"):
        return frozenset()
    asked = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    return frozenset(
        dtype for dtype, name in asked.items() if not getattr(torch.ops.mkldnn, name, lambda: True)()
    )


WIDENED = _without_onednn()
"""Dtypes of products and convolutions that are computed in float32."""
OWN_ROWS, OWN_DEPTH = range(4, 4097), 32
"""Rows, and the least depth, of products for which the native library is not slower than oneDNN."""
LEAST_OUTPUTS = 10
"""Of a weight whose gradient the native library computes: the height of a block of rows."""


def _own_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """``x weight^T + bias`` by the native library in inference, or ``None`` where torch's product has to run."""
    if not can_infer(x, weight, bias) or not native.require().product_takes(DTYPES[x.dtype]) or _HAS_TILES:
        return None
    (columns, depth), rows = weight.shape, x.shape[:-1].numel()
    dense = weight.is_contiguous() and (bias is None or bias.is_contiguous())
    if depth < OWN_DEPTH or depth % 2 or rows not in OWN_ROWS or not dense:
        return None
    x, out = x.contiguous(), x.new_empty((*x.shape[:-1], columns))
    native.require().product_forward(native.ProductArgs(
        rows=rows, depth=depth, columns=columns, dtype=DTYPES[x.dtype], scale=1.0, x=address(x), x_row=depth,
        threads=threads.for_work(0.02 * rows * depth * columns), weight=address(weight), bias=address(bias),
        out=address(out), out_row=columns,
    ))  # fmt: skip
    return out


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x weight^T + bias`` by oneDNN: the operator that torch's own compiler emits for float32 ``linear``."""
    return _onednn_linear(x, weight, bias, "none", [], "")  # type: ignore[misc]


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        to_x, to_weight, to_bias = ctx.needs_input_grad
        with without_autocast("cpu"):  # float32, as the forward pass was
            dx = _one(grad, weight.t(), None) if to_x else None
            return (dx, *_weight_gradient(grad.flatten(0, -2), x.flatten(0, -2), to_weight, to_bias))


def _weight_gradient(grad: Tensor, x: Tensor, to_weight: bool, to_bias: bool) -> tuple[Tensor | None, ...]:
    """Gradients of a weight and a bias, if they are wanted, from rows ``(M, O)`` and ``(M, I)`` in float32."""
    outputs, inputs = grad.shape[1], x.shape[1]
    own = x.dtype is torch.float32 and can_infer(grad, x) and native.require().product_takes(DTYPES[x.dtype])
    if not own or not to_weight or outputs < LEAST_OUTPUTS:
        return _one(grad.t(), x.t(), None) if to_weight else None, grad.sum(0) if to_bias else None
    grad, x = native.with_unit_last_stride(grad), native.with_unit_last_stride(x)
    out, bias = grad.new_empty(outputs, inputs), grad.new_empty(outputs) if to_bias else None
    native.require().weight_gradient_forward(native.WeightGradientArgs(
        rows=len(grad), outputs=outputs, inputs=inputs, threads=threads.for_work(0.02 * grad.numel() * inputs),
        grad=address(grad), grad_row=grad.stride(0), x=address(x), x_row=x.stride(0), out=address(out),
        bias=address(bias),
    ))  # fmt: skip
    return out, bias


def _onednn_takes(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return (
        _HAS_ONEDNN
        and x.dtype is torch.float32
        and weight.dtype is torch.float32
        and (bias is None or bias.dtype is torch.float32)
        and x.is_cpu
        and x.dim() > 1
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and is_eager(x, weight, *(() if bias is None else (bias,)))
    )


def is_widened(x: Tensor, *others: Tensor | None) -> bool:
    """Whether products of these operands are computed in float32 and rounded; see the head of this module."""
    if not WIDENED or not isinstance(x, Tensor) or x.dtype not in WIDENED:  # a tracer's stand-in is no tensor
        return False
    given = [x, *(other for other in others if other is not None)]
    return (
        x.is_cpu
        and all(other.dtype is x.dtype for other in given)
        and not torch.is_autocast_enabled("cpu")
        and is_eager(*given)
    )


def _one(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if (own := _own_product(x, weight, bias)) is not None:
        return own
    if is_widened(x, weight, bias) and x.shape[:-1].numel() >= FEWEST_ROWS:
        return _one(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
    if not _onednn_takes(x, weight, bias):
        return F.linear(x, weight, bias)
    learning = x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    if torch.is_grad_enabled() and learning:
        return _OneDNNLinear.apply(x, weight, bias)
    return _product(x, weight, bias)


def _check_call(x: Tensor, weight: Tensor) -> None:
    """What depends on more than the arguments, so that `Contract.check_once` must not remember it."""
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(f"x: expected the dtype of weight, {weight.dtype}, got {x.dtype}")
    if not x.is_meta:
        backends.check_forced("linear", x.device)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if is_eager(x, weight):  # otherwise torch's own linear runs, which checks each product
        CONTRACT.check_once(x, weight, bias)
        _check_call(x, weight)
    elif weight.dim() != 2:
        CONTRACT.check_arguments(x, weight, bias)
    if weight.dim() == 2:
        return _one(x, weight, bias)
    rows = [_one(x_k, weight_k, None) for x_k, weight_k in zip(x.unbind(2), weight.unbind(0), strict=True)]
    return torch.stack(rows).permute(1, 2, 0, 3)


LIBRARY.impl("linear", _linear, "CompositeImplicitAutograd")
LIBRARY.impl(
    "linear", _linear, "FuncTorchDynamicLayerFrontMode"
)  # `torch.func` has rules for F.linear, none for this
