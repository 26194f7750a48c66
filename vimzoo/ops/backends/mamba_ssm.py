"""The ``mamba_ssm`` backend: the kernels of the user's own mamba-ssm and causal-conv1d, with plain PyTorch around them.

Neither package is imported until this backend is requested by name. Only two public functions are called, by keyword,
whose meaning has not changed since release 1.2: ``selective_scan_fn`` and ``causal_conv1d_fn``. A backward pass runs
the forward pass again, because the tensors that these functions save for it differ between releases. The scan's
backward pass uses atomic additions, so it is refused under ``torch.use_deterministic_algorithms``.

`scan_paths` does what users of these packages write around them: it copies tokens into path order, projects dt, scans
the directions as groups of channels, and sums the outputs, which are rounded to the input's dtype first.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from vimzoo.errors import first_line

from ..conv.call import ConvCall
from ..paths.path import tokens_from_codes
from ..reference import along_paths, merged
from ..runtime.abi import DTYPES
from ..runtime.call import empty
from ..runtime.library import gradients_of
from ..scan.call import ScanCall, SelectiveCall
from . import Backend, Unsupported, functions_of, register

NAME = "mamba_ssm"
DEVICES: tuple[str, ...] = ("cuda",)
"""Types of device that the packages' kernels run on."""
TAPS = (2, 3, 4)
"""Lengths of a filter that causal-conv1d knows."""
MOST_STATES = 256


def _function(distribution: str, module: str, name: str, extension: str) -> tuple[Any, str]:
    """``module.name`` and the release, or ``None`` and why it is not available."""
    if importlib.util.find_spec(module.split(".")[0]) is None:
        return None, f"{distribution} is not installed"
    try:
        found = importlib.import_module(module)
        function = getattr(found, name)
    except Exception as error:  # a build for another torch or CUDA can fail in many ways
        first = first_line(error)
        return None, f"{distribution} cannot be imported: {first}"
    if getattr(found, extension, True) is None:  # releases that may be built without kernels
        return None, f"{distribution} was built without {extension}"
    try:
        return function, f"{distribution} {importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        return function, f"{distribution} of an unknown release"


@cache
def load_scan() -> tuple[Callable[..., Any] | None, str]:
    """mamba_ssm's ``selective_scan_fn`` and its release, or ``None`` and why it is not available."""
    module = "mamba_ssm.ops.selective_scan_interface"
    return _function("mamba-ssm", module, "selective_scan_fn", "selective_scan_cuda")


@cache
def load_conv() -> tuple[Callable[..., Any] | None, str]:
    """causal_conv1d's ``causal_conv1d_fn`` and its release, or ``None`` and why it is not available."""
    return _function("causal-conv1d", "causal_conv1d", "causal_conv1d_fn", "causal_conv1d_cuda")


def _require(found: tuple[Callable[..., Any] | None, str], *tensors: Tensor | None) -> Callable[..., Any]:
    for tensor in tensors:
        if tensor is not None and (tensor.dtype not in DTYPES or tensor.device.type not in DEVICES):
            raise Unsupported(f"{tensor.dtype} on {tensor.device.type}")
    function, reason = found
    if function is None:
        raise Unsupported(reason)
    return function


def _require_scan(A: Tensor, *tensors: Tensor | None) -> Callable[..., Any]:
    scan = _require(load_scan(), *tensors)
    if A.is_complex():
        raise Unsupported("complex A")
    if not 0 < A.shape[-1] <= MOST_STATES:
        raise Unsupported(f"{A.shape[-1]} states; at most {MOST_STATES}")
    return scan


def require_no_determinism(grad: Tensor) -> None:
    """Raise `Unsupported` where torch's deterministic mode forbids this backward pass."""
    strict = (
        torch.are_deterministic_algorithms_enabled()
        and not torch.is_deterministic_algorithms_warn_only_enabled()
    )
    if grad.is_cuda and strict:
        raise Unsupported(
            "mamba_ssm's backward pass is not deterministic, and torch.use_deterministic_algorithms is on"
        )


def _float(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.float().contiguous()


def _scan(call: SelectiveCall) -> tuple[Tensor, Tensor]:
    u, B, C = call.u, call.B, call.C
    scan = _require_scan(call.A, u, call.delta, B, C, call.z)
    if B.dim() == 2 or C.dim() == 2:
        raise Unsupported("constant B or C")
    if B.dtype != u.dtype or C.dtype != u.dtype:
        raise Unsupported(f"B of {B.dtype} and C of {C.dtype} with u of {u.dtype}")
    return scan(
        u=u, delta=call.delta, A=call.A.float(), B=B, C=C, D=_float(call.D), z=call.z,
        delta_bias=_float(call.delta_bias), delta_softplus=call.delta_softplus, return_last_state=True,
    )  # fmt: skip


def selective_scan(call: SelectiveCall) -> tuple[Tensor, Tensor, Tensor]:
    """`vimzoo.ops.selective_scan`: y, the last state, and no saved states."""
    u = call.u
    if not u.numel():
        _require_scan(call.A, u)
        last_state = u.new_zeros((call.batch, call.channels, call.d_state), dtype=torch.float32)
        return torch.empty_like(u), last_state, empty(u)
    out, last_state = _scan(call)
    return out.contiguous(), last_state.contiguous().float(), empty(u)


def selective_scan_backward(
    call: SelectiveCall, grad: Tensor, grad_last: Tensor | None, states: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of `selective_scan`."""
    if grad_last is not None:
        raise Unsupported("mamba_ssm has no gradient through the last state")
    if not grad.numel():
        _require_scan(call.A, grad)
        return call.zeros()
    require_no_determinism(grad)
    return gradients_of(lambda call: _scan(call)[0], call, grad)


def _paths(call: ScanCall) -> Tensor:
    x, directions = call.x, call.directions
    scan = _require_scan(call.A, x, call.x_dbl, call.z)
    tokens = tokens_from_codes(call.codes, call.table, call.height, call.width).to(x.device)

    def of_channels(parameter: Tensor | None) -> Tensor | None:
        """``(K or 1, D, ...)`` as ``(K D, ...)``."""
        if parameter is None:
            return None
        wide = parameter.float().expand(directions, *parameter.shape[1:])
        return rearrange(wide, "k d ... -> (k d) ...").contiguous()

    u = along_paths(x, tokens)
    low, B, C = along_paths(call.rows, tokens).split([call.rank, call.d_state, call.d_state], dim=2)
    delta = call.dt_weight.to(x.dtype) @ low  # the scan itself adds the bias and takes the softplus
    y = scan(
        u=rearrange(u, "b k d t -> b (k d) t"), delta=rearrange(delta, "b k d t -> b (k d) t"),
        A=of_channels(call.A), B=B.contiguous(), C=C.contiguous(), D=of_channels(call.D),
        delta_bias=of_channels(call.dt_bias), delta_softplus=True,
    )  # fmt: skip
    y = rearrange(y, "b (k d) t -> b k t d", k=directions)
    if not call.merge:
        return y
    y = merged(y.float(), tokens, call.length)
    return (y if call.z is None else y * F.silu(call.z.float())).to(x.dtype)


def scan_paths(call: ScanCall) -> tuple[Tensor, Tensor]:
    """`vimzoo.ops.scan_paths`, and no saved states."""
    if not call.x.numel():
        _require_scan(call.A, call.x)
        return call.x.new_empty(call.output_shape), empty(call.x)
    return _paths(call).contiguous(), empty(call.x)


def scan_paths_backward(call: ScanCall, grad: Tensor, states: Tensor) -> tuple[Tensor, ...]:
    """Gradients of `scan_paths`."""
    if not grad.numel():
        _require_scan(call.A, grad)
        return call.zeros()
    require_no_determinism(grad)
    return gradients_of(_paths, call, grad)


def _convolution(call: ConvCall) -> Tensor:
    x, weight, bias = call.x, call.weight, call.bias
    convolve = _require(load_conv(), x)
    if call.taps not in TAPS:
        raise Unsupported(f"{call.taps} taps; causal-conv1d has {TAPS[0]} to {TAPS[-1]}")
    tokens = x.transpose(1, 2)
    outputs = []
    for k, backward in enumerate(call.reverse):
        y = convolve(
            x=(tokens.flip(-1) if backward else tokens).contiguous(), weight=weight[k].contiguous(),
            bias=None if bias is None else bias[k].contiguous(), activation=call.activation,
        )  # fmt: skip
        outputs.append((y.flip(-1) if backward else y).transpose(1, 2))
    return torch.stack(outputs).permute(1, 2, 0, 3)


def causal_conv1d(call: ConvCall) -> Tensor:
    """`vimzoo.ops.causal_conv1d`: ``(B, L, K, D)``, K first in memory."""
    if not call.x.numel():
        _require(load_conv(), call.x)
        return call.new_output()
    return _convolution(call)


def causal_conv1d_backward(call: ConvCall, grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients of `causal_conv1d`."""
    if not grad.numel():
        _require(load_conv(), grad)
        return call.zeros()
    return gradients_of(_convolution, call, grad)


def _check_device(device: torch.device) -> None:
    if device.type not in DEVICES:
        raise Unsupported(f"{device.type} tensors: these kernels need a GPU")
    _require(load_scan())


def _load() -> tuple[bool, str]:
    """Whether mamba_ssm's scan is available; it is imported only if ``VIMZOO_BACKEND`` forces it."""
    if os.environ.get("VIMZOO_BACKEND") != NAME and importlib.util.find_spec("mamba_ssm") is not None:
        return False, f"installed, not imported: VIMZOO_BACKEND={NAME} or backend={NAME!r} loads it"
    function, detail = load_scan()
    return function is not None, detail


register(
    Backend(
        name=NAME,
        devices={"cuda": None},
        ops=functions_of(sys.modules[__name__]),
        load=_load,
        check_device=_check_device,
        stand_ins=("triton", "reference"),
    )
)
