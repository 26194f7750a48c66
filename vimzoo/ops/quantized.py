"""Weights of 8 and 4 bits, and products with them.

A weight W of O rows is stored as whole numbers q with ``W = scale (q - offset)``; scale and offset belong to a row, or
to a group of a row's columns. On the CPU products of few rows read the whole numbers and widen them in registers; with
many rows the weight is widened first, and with activations of 8 bits both factors stay whole numbers where the
processor multiplies bytes (VNNI, ARMv8.6). Everywhere else, and where gradients are wanted, torch computes the same.
"""

import ctypes
import logging
from functools import cache
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from . import backends
from .dense import linear
from .runtime import native, threads
from .runtime.abi import CONSTANTS, DTYPES, address
from .runtime.library import LIBRARY, check_tensors, is_inference

__all__ = ["QuantizedWeight", "Rounded", "quantize_weight", "quantized_linear"]

BLOCK = 32
"""Columns are padded to a multiple of this; 4-bit weights i and i + 16 of a block share a byte."""
ROWS_TO_WIDEN = 16
"""With more rows than these it is faster to widen the whole weight first."""
_MIDDLE = {8: 0.0, 4: 8.0}
"""The offset of weights without offsets: 4-bit ones are stored as 0..15."""
_PRODUCT, _PRODUCT_8_BITS, _WEIGHTS = range(3)
_described = native.QuantizedLinearArgs.with_fixed(
    ("inputs", "outputs", "padded", "bits", "group", "task", "values", "scale", "offset"), {}
)
_logger = logging.getLogger(__name__)
LIBRARY.define(
    "quantized_linear(Tensor x, Tensor values, Tensor scale, Tensor? offset, SymInt columns, Tensor? bias, "
    "str activations) -> Tensor"
)


class QuantizedWeight(NamedTuple):
    """A weight of 8 or 4 bits, from `quantize_weight`.

    Attributes:
        values: ``(..., O, P)`` int8, or ``(..., O, P / 2)`` uint8 with two 4-bit numbers a byte; P is the number of
            columns I, padded to a multiple of 32 and of the group.
        scale: ``(..., O, G)`` float32, for G groups of columns.
        offset: The same shape, or None for symmetric weights.
        columns: I.
    """

    values: Tensor
    scale: Tensor
    offset: Tensor | None
    columns: int

    @property
    def bits(self) -> int:
        """8 or 4."""
        return 8 if self.values.dtype == torch.int8 else 4

    @property
    def group(self) -> int:
        """Columns that share a scale."""
        return self.values.shape[-1] * 8 // self.bits // self.scale.shape[-1]

    def expert(self, index: int) -> Self:
        """One weight of several that are stacked along the first axis."""
        offset = None if self.offset is None else self.offset[index]
        return self._replace(values=self.values[index], scale=self.scale[index], offset=offset)

    def whole_numbers(self) -> Tensor:
        """``(..., O, P)`` float32: q, of 4-bit weights 0..15."""
        if self.bits == 8:
            return self.values.float()
        blocks = self.values.unflatten(-1, (-1, BLOCK // 2))
        return torch.cat([blocks & 15, blocks >> 4], -1).flatten(-2).float()

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """``(..., O, I)``, differentiable with respect to scale and offset."""
        offset = _MIDDLE[self.bits] if self.offset is None else self.offset[..., None]
        groups = self.whole_numbers().unflatten(-1, (self.scale.shape[-1], -1))
        weight = (groups - offset) * self.scale[..., None]
        return weight.flatten(-2)[..., : self.columns].to(dtype)


class Rounded(NamedTuple):
    """A weight of 8 or 4 bits as blocks in one call take it in place of a tensor; see `vimzoo.ops.mixers`.

    Attributes:
        weight: Of ``(O, I)``.
        activations: As `quantized_linear` takes it.
    """

    weight: QuantizedWeight
    activations: str

    @property
    def shape(self) -> tuple[int, int]:
        """``(O, I)``."""
        return self.weight.values.shape[0], self.weight.columns

    def takes(self) -> bool:
        """Whether blocks in one call, which run only where `is_inference` is true, can multiply by this weight here."""
        for t in self.weight[:3]:
            if t is not None and not (type(t) is Tensor and t.is_cpu and t.is_contiguous()):
                return False
        return self.activations == "float" or native.require().has_int8

    def packed(self) -> ctypes.Array[ctypes.c_char]:
        """What C is given."""
        weight = self.weight
        (outputs, stored), bits = weight.values.shape, weight.bits
        task = _PRODUCT_8_BITS if self.activations == "int8" else _WEIGHTS
        return ctypes.create_string_buffer(_described(
            weight.columns, outputs, stored * 8 // bits, bits, weight.group, task, *map(address, weight[:3])
        ))  # fmt: skip


def quantize_weight(
    weight: Tensor, bits: int = 8, *, group: int | None = None, symmetric: bool = True
) -> QuantizedWeight:
    """Round a weight to whole numbers of 8 or 4 bits.

    Args:
        weight: ``(..., O, I)`` of a floating dtype.
        bits: 8 or 4.
        group: Columns that share a scale, a multiple of 32; None is a whole row.
        symmetric: Without offsets; else the range of each group is used in full.

    Raises:
        TypeError: ``weight`` is not a tensor.
        ValueError: an argument has an invalid value, or the weight holds NaN or infinity.
    """
    check_tensors(weight=weight)
    if weight.dim() < 2 or not weight.is_floating_point() or 0 in weight.shape:
        raise ValueError(
            f"weight: expected (..., O, I) floats, got shape {tuple(weight.shape)} of {weight.dtype}"
        )
    if bits not in _MIDDLE:
        raise ValueError(f"bits: expected 8 or 4, got {bits!r}")
    if group is not None and (group <= 0 or group % BLOCK):
        raise ValueError(f"group: expected a multiple of {BLOCK}, or None, got {group!r}")
    if not weight.isfinite().all():
        raise ValueError("weight: expected finite numbers, got NaN or infinity")
    columns = weight.shape[-1]
    padded = -(-columns // (group or BLOCK)) * (group or BLOCK)
    wide = torch.nn.functional.pad(weight.detach().float(), (0, padded - columns))
    groups = wide.unflatten(-1, (-1, group or padded))
    least, most = (-128, 127) if bits == 8 else (0, 15)
    offset = None
    if symmetric:
        largest = groups.abs().amax(-1)
        scale, middle = largest / (127 if bits == 8 else 7.5), torch.full_like(largest, _MIDDLE[bits])
    else:
        low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
        scale = (high - low) / (most - least)
        offset = middle = (least - low / _positive(scale)).round()
    whole = (groups / _positive(scale)[..., None]).round() + middle[..., None]
    whole = whole.clamp(least + (symmetric and bits == 8), most).flatten(-2)
    if bits == 8:
        return QuantizedWeight(whole.to(torch.int8), scale, offset, columns)
    low, high = whole.to(torch.uint8).unflatten(-1, (-1, 2, BLOCK // 2)).unbind(-2)
    return QuantizedWeight((low | high << 4).flatten(-2), scale, offset, columns)


def _positive(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, 1.0)


def quantized_linear(
    x: Tensor, weight: QuantizedWeight, bias: Tensor | None = None, *, activations: str = "float"
) -> Tensor:
    """``x W^T + bias`` with a weight of 8 or 4 bits.

    Args:
        x: ``(..., I)``, floats.
        weight: Of ``(O, I)``.
        bias: ``(O,)``.
        activations: ``"float"``: x is used as it is. ``"int8"``: each row of x is rounded to whole numbers of 8 bits,
            symmetrically, with its largest value as 127; for weights of 8 bits without groups and offsets. There is no
            gradient then.

    Returns:
        ``(..., O)`` in x's dtype.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: shapes, dtypes or options do not fit.
    """
    check_tensors(("bias",), x=x, bias=bias)
    rows, columns = weight.values.shape[-2], weight.columns
    if x.dim() == 0 or x.shape[-1] != columns or not x.is_floating_point():
        raise ValueError(f"x: expected (..., {columns}) floats, got shape {tuple(x.shape)} of {x.dtype}")
    if weight.values.dim() != 2:
        raise ValueError(f"weight: expected one of (O, I), got shape {tuple(weight.values.shape)}")
    if bias is not None and bias.shape != (rows,):
        raise ValueError(f"bias: expected shape ({rows},), got {tuple(bias.shape)}")
    if activations not in ("float", "int8"):
        raise ValueError(f"activations: expected 'float' or 'int8', got {activations!r}")
    if activations == "int8":
        if weight.bits != 8 or weight.offset is not None or weight.scale.shape[-1] != 1:
            raise ValueError(
                "activations: expected 'float' with weights of 4 bits, in groups or with offsets"
            )
        if torch.is_grad_enabled() and x.requires_grad:
            raise ValueError("activations: expected 'float' where a gradient is wanted; rounding has none")
    if not torch.is_grad_enabled() and (torch.compiler.is_exporting() or torch.jit.is_tracing()):
        return torch.ops.vimzoo.quantized_linear(x, *weight[:3], columns, bias, activations)
    return _product(x, weight, bias, activations)


def _product(x: Tensor, weight: QuantizedWeight, bias: Tensor | None, activations: str) -> Tensor:
    if _takes(x, weight, bias):
        return _native(x, weight, bias, activations)
    if activations == "int8":
        return _rounded(x, weight, bias)
    return linear(x, weight.dequantize(x.dtype), None if bias is None else bias.to(x.dtype))


def _rounded(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """The product of whole numbers, in float32: exact up to 1,040 columns, and right to 2e-7 of the sum beyond."""
    wide = x.float()
    largest = wide.abs().amax(-1, keepdim=True)
    # a tensor over a tensor is one division; torch computes a number over a tensor as the number times a reciprocal
    factor = torch.where(largest == 0, 0.0, torch.full_like(largest, 127.0) / largest)
    whole = linear((wide * factor).round(), weight.whole_numbers()[:, : weight.columns])
    y = whole * (largest / 127.0 * weight.scale[:, 0])
    return (y if bias is None else y + bias).to(x.dtype)


def _takes(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> bool:
    return (
        is_inference(x, weight.values, weight.scale, weight.offset, bias)
        and x.dtype in DTYPES
        and x.numel() > 0
        and all(tensor.is_contiguous() for tensor in (weight.values, weight.scale))
        and native.load()[0] is not None
        and backends.forced_backend() in (None, "cpu")
    )


@cache  # says it once
def _say_slow() -> None:
    _logger.warning(
        "activations of 8 bits: this processor or build has no products of bytes; computed in float32, which is slower"
    )


def _native(x: Tensor, weight: QuantizedWeight, bias: Tensor | None, activations: str) -> Tensor:
    library = native.require()
    if activations == "int8" and not library.has_int8 and x.numel() > CONSTANTS["FEW_ROWS"] * x.shape[-1]:
        _say_slow()
        return _rounded(x, weight, bias)
    rows = native.with_unit_last_stride(x.reshape(-1, x.shape[-1]))
    outputs = weight.values.shape[0]
    many = activations == "float" and len(rows) > ROWS_TO_WIDEN
    out = x.new_empty((outputs, weight.columns) if many else (*x.shape[:-1], outputs))
    offset = None if weight.offset is None else weight.offset.contiguous()
    float_bias = None if many else native.float_parameter(bias)
    work = weight.values.numel() * (1 if many else len(rows))
    library.quantized_linear_forward(native.QuantizedLinearArgs(
        rows=len(rows), inputs=weight.columns, outputs=outputs, padded=weight.values.shape[1] * 8 // weight.bits,
        bits=weight.bits, group=weight.group, dtype=DTYPES[x.dtype], threads=threads.for_work(work / 50),
        task=_WEIGHTS if many else _PRODUCT_8_BITS if activations == "int8" else _PRODUCT,
        x=address(rows), x_row=rows.stride(0), values=address(weight.values), scale=address(weight.scale),
        offset=address(offset), bias=address(float_bias), out=address(out),
    ))  # fmt: skip
    return linear(x, out, None if bias is None else bias.to(x.dtype)) if many else out


def _kernel(
    x: Tensor,
    values: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    columns: int,
    bias: Tensor | None,
    activations: str,
) -> Tensor:
    """``torch.ops.vimzoo.quantized_linear``: one node of exported programs. It has no gradient."""
    return _product(x, QuantizedWeight(values, scale, offset, columns), bias, activations)


def _fake(x: Tensor, values: Tensor, *others: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], values.shape[0]))


LIBRARY.impl("quantized_linear", _kernel, "CompositeExplicitAutograd")
torch.library.register_fake("vimzoo::quantized_linear", _fake, lib=LIBRARY)
