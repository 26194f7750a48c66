"""The operators in terms that ONNX's exporter knows: PyTorch's own, and one node for each scan.

Nothing here is meant to run in eager mode, except the definitions of what has no node. `vimzoo.exporting.scan_function`
says what the node of a scan means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vimzoo.ops.conv.call import ConvCall
from vimzoo.ops.norm.call import NormCall
from vimzoo.ops.reference import compute_dtype
from vimzoo.ops.runtime.call import empty
from vimzoo.ops.runtime.library import filled
from vimzoo.ops.scan.call import ScanCall


def scan_paths(*arguments: Any, planes: bool = False) -> tuple[Tensor, Tensor]:
    """``vimzoo::scan_paths`` as a node ``vimzoo::ScanPaths``; the second output, the saved states, is empty.

    The node's inputs are in the order of `vimzoo.exporting.scan_function.INPUTS`.

    Args:
        arguments: those of the operator, which are the fields of `ScanCall` and ``backend``, which is ignored.
        planes: Give the node ``x (K, B, L, D)`` and the rows likewise where each direction has its own.
    """
    call = ScanCall(*arguments[: len(ScanCall.names())])
    work = compute_dtype(call.x)
    rates, dt_weight = (p.to(work).transpose(1, 2) for p in (call.A, call.dt_weight))
    height, width = (torch.scalar_tensor(side, dtype=torch.int64) for side in (call.height, call.width))
    skip = None if call.D is None else call.D.to(work)
    planes = planes and call.x.dim() == 4
    x, rows = (each.permute(2, 0, 1, 3) if planes else each for each in (call.x, call.rows))
    inputs = [
        x,
        rows,
        rates,
        dt_weight,
        call.dt_bias.to(work),
        height,
        width,
        skip,
        call.z,
        call.table,
    ]
    attributes: dict[str, Any] = {"codes": call.codes, "merge": int(call.merge)}
    if planes:
        attributes["planes"] = 1
    y = torch.onnx.ops.symbolic(
        "vimzoo::ScanPaths", inputs, attributes, dtype=call.x.dtype, shape=call.output_shape, version=1
    )
    return y, empty(call.x)


def scan_planes(*arguments: Any) -> tuple[Tensor, Tensor]:
    """`scan_paths` for our own operator, with the directions of ``(B, L, K, D)`` before the images."""
    return scan_paths(*arguments, planes=True)


def scan_carried(*arguments: Any) -> tuple[Tensor, ...]:
    """``vimzoo::scan_carried`` has no form in ONNX yet."""
    raise NotImplementedError(
        "vimzoo::scan_carried: ONNX files hold no carried states; expected a scan without initial_state and "
        "return_final_state"
    )


def causal_conv1d(*arguments: Any) -> Tensor:
    """``vimzoo::causal_conv1d`` as convolutions of images of one row; a backward one has its kernel turned.

    ``backend`` is ignored and ``activation`` may be left out, as in its schema.
    """
    inputs = arguments[: len(ConvCall.names())]
    call = ConvCall(*filled(inputs, len(ConvCall.names())))
    work, reach = compute_dtype(call.x), call.taps - 1
    row, outputs = call.x.to(work).transpose(1, 2).unsqueeze(2), []
    for k, backward in enumerate(call.reverse):
        kernel = call.weight[k].to(work)[:, None, None]
        kernel = kernel.flip(-1) if backward else kernel
        bias = None if call.bias is None else call.bias[k].to(work)
        padded = F.pad(row, (0, reach) if backward else (reach, 0))
        y = F.conv2d(padded, kernel, bias, groups=len(kernel)).squeeze(2).transpose(1, 2)
        outputs.append(F.silu(y) if call.activation == "silu" else y)
    return torch.stack(outputs, 2).to(call.x.dtype)


def causal_conv1d_node(*arguments: Any) -> Tensor:
    """``vimzoo::causal_conv1d`` as a node ``vimzoo::CausalConv1d``, our own operator."""
    inputs = arguments[: len(ConvCall.names())]
    call = ConvCall(*filled(inputs, len(ConvCall.names())))
    work = compute_dtype(call.x)
    given = [call.x, call.weight.to(work), None if call.bias is None else call.bias.to(work)]
    attributes: dict[str, Any] = {
        "reverse": list(map(int, call.reverse)),
        "silu": int(call.activation == "silu"),
    }
    batch, length, channels = call.x.shape
    y = torch.onnx.ops.symbolic(
        "vimzoo::CausalConv1d", given[: 3 - (call.bias is None)], attributes, dtype=call.x.dtype,
        shape=(call.directions, batch, length, channels), version=1,
    )  # fmt: skip
    return y.permute(1, 2, 0, 3)


def add_norm(*arguments: Any) -> tuple[Tensor, Tensor]:
    """``vimzoo::add_norm`` in the forms that runtimes recognise as norms; ``backend`` is ignored."""
    call = NormCall(*arguments[: len(NormCall.names())])
    x, residual = call.x, call.residual
    work = compute_dtype(x)
    stream = x.to(work) if residual is None else x.to(work) + residual.to(work)
    weight, bias = (None if p is None else p.to(work) for p in (call.weight, call.bias))
    assert weight is not None
    if call.rms:
        normed = stream / torch.sqrt(stream.pow(2).mean(-1, keepdim=True) + call.eps) * weight
        normed = normed if bias is None else normed + bias
    else:
        normed = F.layer_norm(stream, stream.shape[-1:], weight, bias, call.eps)
    kept = stream.to(call.stream_dtype)
    return normed.to(x.dtype), kept.clone() if kept is x else kept


def quantized_linear(
    x: Tensor,
    values: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    columns: int,
    bias: Tensor | None,
    activations: str,
) -> Tensor:
    """``vimzoo::quantized_linear`` as a node ``vimzoo::QuantizedLinear``; `vimzoo.exporting.quantized` replaces it."""
    work = compute_dtype(x)
    attributes: dict[str, Any] = {"columns": columns, "activations": activations}
    shape = (*x.shape[:-1], values.shape[0])
    y = torch.onnx.ops.symbolic(
        "vimzoo::QuantizedLinear",
        [x.to(work), values, scale, offset],
        attributes,
        dtype=work,
        shape=shape,
        version=1,
    )
    return (y if bias is None else y + bias.to(work)).to(x.dtype)


def stable_sort(
    x: Tensor, *, stable: bool | None = True, dim: int = -1, descending: bool = False
) -> tuple[Tensor, Tensor]:
    """``aten::sort.stable`` of whole numbers, which MambaIRv2 sorts its tokens by, in terms of an unstable sort."""
    if x.is_floating_point() or descending:
        raise NotImplementedError("lowering of a stable sort: expected ascending whole numbers")
    count = x.shape[dim]
    place = torch.arange(count, device=x.device).view(
        [-1 if d == dim % x.dim() else 1 for d in range(x.dim())]
    )
    order = (x * count + place).sort(dim).indices
    return x.gather(dim, order), order


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.vimzoo.scan_paths.default: scan_paths,
    torch.ops.vimzoo.scan_carried.default: scan_carried,
    torch.ops.vimzoo.causal_conv1d.default: causal_conv1d,
    torch.ops.vimzoo.add_norm.default: add_norm,
    torch.ops.vimzoo.quantized_linear.default: quantized_linear,
    torch.ops.aten.sort.stable: stable_sort,
}
"""Decompositions, for ``ExportedProgram.run_decompositions``, of the operators that exporters do not know."""

WITH_OWN_OPERATORS: dict[Any, Callable[..., Any]] = {
    **DECOMPOSITIONS,
    torch.ops.vimzoo.scan_paths.default: scan_planes,
    torch.ops.vimzoo.causal_conv1d.default: causal_conv1d_node,
}
"""The same for files of our operators, which OpenVINO and onnxruntime run with our libraries."""
