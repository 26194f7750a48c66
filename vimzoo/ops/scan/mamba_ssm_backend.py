"""The ``mamba_ssm`` backend: the kernels of the user's own mamba-ssm and causal-conv1d, with plain PyTorch around them.

Neither package is imported before this backend is asked for by name. Only two public functions are called, by keyword,
whose meaning has not changed from release 1.2 on: ``selective_scan_fn`` and ``causal_conv1d_fn``. A backward pass runs
the forward pass again, for what these functions keep for it differs from release to release and stays their own. That
of the scan adds with atomics, so it refuses where ``torch.use_deterministic_algorithms`` is on.

`scan_paths` is what those packages' users write around them: tokens are copied into path order, dt is projected, the
scan runs over the directions as groups of channels, and its outputs, rounded to the input's dtype, are added up.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..paths.path import tokens_from_codes
from ..reference import along_paths, merged
from ..runtime.backends import Unsupported
from ..runtime.library import empty, gradients_of
from ..runtime.native import DTYPES, states_size

DEVICES: tuple[str, ...] = ("cuda",)
"""Kinds of devices that the packages' kernels run on."""
TAPS = (2, 3, 4)
"""Lengths of a filter that causal-conv1d knows."""
MOST_STATES = 256


def _function(distribution: str, module: str, name: str, extension: str) -> tuple[Any, str]:
    """``module.name`` and the release, or ``None`` and why it cannot be had."""
    if importlib.util.find_spec(module.split(".")[0]) is None:
        return None, f"{distribution} is not installed"
    try:
        found = importlib.import_module(module)
        function = getattr(found, name)
    except Exception as error:  # a build for another torch or CUDA fails in ways of its own
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return None, f"{distribution} cannot be imported: {first}"
    if getattr(found, extension, True) is None:  # releases that may be built without kernels
        return None, f"{distribution} was built without {extension}"
    try:
        return function, f"{distribution} {importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        return function, f"{distribution} of an unknown release"


@cache
def load_scan() -> tuple[Callable[..., Any] | None, str]:
    """mamba_ssm's ``selective_scan_fn`` and its release, or ``None`` and why it cannot be had."""
    module = "mamba_ssm.ops.selective_scan_interface"
    return _function("mamba-ssm", module, "selective_scan_fn", "selective_scan_cuda")


@cache
def load_conv() -> tuple[Callable[..., Any] | None, str]:
    """causal_conv1d's ``causal_conv1d_fn`` and its release, or ``None`` and why it cannot be had."""
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


def _require_no_determinism(grad: Tensor) -> None:
    strict = (
        torch.are_deterministic_algorithms_enabled()
        and not torch.is_deterministic_algorithms_warn_only_enabled()
    )
    if grad.is_cuda and strict:
        raise Unsupported("mamba_ssm's backward pass is not deterministic, which torch was told to insist on")


def _float(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.float().contiguous()


def _no_states(like: Tensor, size: int, save: bool) -> Tensor:
    """Ones tell a backward pass that needs states that there are none, as after the reference."""
    return like.new_ones(size if save else 0, dtype=torch.float32)


def _scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    scan = _require_scan(A, u, delta, B, C, z)
    if B.dim() == 2 or C.dim() == 2:
        raise Unsupported("constant B or C")
    if B.dtype != u.dtype or C.dtype != u.dtype:
        raise Unsupported(f"B of {B.dtype} and C of {C.dtype} with u of {u.dtype}")
    return scan(
        u=u, delta=delta, A=A.float(), B=B, C=C, D=_float(D), z=z, delta_bias=_float(delta_bias),
        delta_softplus=delta_softplus, return_last_state=True,
    )  # fmt: skip


def selective_scan(u: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """`vimzoo.ops.selective_scan`: y, the last state, and ones in place of states."""
    *inputs, save = args
    states = _no_states(u, states_size(u.shape[0], 1, u.shape[2], args[1].shape[1], u.shape[1]), save)
    if not u.numel():
        _require_scan(args[1], u)
        return torch.empty_like(u), u.new_zeros((*u.shape[:2], args[1].shape[1]), dtype=torch.float32), states
    out, last_state = _scan(u, *inputs)
    return out.contiguous(), last_state.contiguous().float(), states


def selective_scan_backward(
    grad: Tensor, grad_last: Tensor | None, states: Tensor, *args: Any
) -> tuple[Tensor, ...]:
    """Gradients of `selective_scan`: of u, delta, A, B, C, D, z and delta_bias."""
    if grad_last is not None:
        raise Unsupported("mamba_ssm has no gradient through the last state")
    if not grad.numel():
        _require_scan(args[2], grad)
        return _zeros(args[:8])
    _require_no_determinism(grad)
    return gradients_of(lambda *inputs: _scan(*inputs)[0], args, 8, grad)


def _zeros(tensors: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
    like = next(tensor for tensor in tensors if tensor is not None)
    return tuple(empty(like) if t is None else t.new_zeros(t.shape) for t in tensors)


def _paths(
    x: Tensor, x_dbl: Tensor, A: Tensor, dt_weight: Tensor, dt_bias: Tensor, D: Tensor | None, z: Tensor | None,
    codes: list[int], table: Tensor | None, height: int, width: int, merge: bool,
) -> Tensor:  # fmt: skip
    scan = _require_scan(A, x, x_dbl, z)
    tokens = tokens_from_codes(codes, table, height, width).to(x.device)
    directions, states = len(codes), A.shape[-1]

    def of_channels(parameter: Tensor | None) -> Tensor | None:
        """``(K or 1, D, ...)`` as ``(K D, ...)``."""
        if parameter is None:
            return None
        return parameter.float().expand(directions, *parameter.shape[1:]).flatten(0, 1).contiguous()

    u = along_paths(x, tokens)
    low, B, C = along_paths(x_dbl, tokens).split([dt_weight.shape[-1], states, states], dim=2)
    delta = dt_weight.to(x.dtype) @ low  # the scan itself adds the bias and takes the softplus
    y = scan(
        u=u.flatten(1, 2), delta=delta.flatten(1, 2), A=of_channels(A), B=B.contiguous(), C=C.contiguous(),
        D=of_channels(D), delta_bias=of_channels(dt_bias), delta_softplus=True,
    )  # fmt: skip
    y = y.unflatten(1, (directions, -1)).transpose(2, 3)
    if not merge:
        return y
    y = merged(y.float(), tokens, x.shape[1])
    return (y if z is None else y * F.silu(z.float())).to(x.dtype)


def scan_paths(x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    """`vimzoo.ops.scan_paths`, and ones in place of states."""
    *inputs, save = args
    A, codes, table, (height, width), merge = args[1], args[6], args[7], args[8:10], args[10]
    K, steps = len(codes), height * width if table is None else table.shape[1]
    states = _no_states(x, states_size(x.shape[0], K, steps, A.shape[-1], x.shape[-1]), save)
    if not x.numel():
        _require_scan(A, x)
        shape = (x.shape[0], x.shape[1]) if merge else (x.shape[0], K, steps)
        return x.new_empty((*shape, x.shape[-1])), states
    return _paths(x, *inputs).contiguous(), states


def scan_paths_backward(grad: Tensor, states: Tensor, *args: Any) -> tuple[Tensor, ...]:
    """Gradients of `scan_paths`: of x, x_dbl, A, dt_weight, dt_bias, D and z."""
    if not grad.numel():
        _require_scan(args[2], grad)
        return _zeros(args[:7])
    _require_no_determinism(grad)
    return gradients_of(_paths, args, 7, grad)


def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, reverse: list[bool], activation: str | None
) -> Tensor:
    convolve = _require(load_conv(), x)
    if weight.shape[2] not in TAPS:
        raise Unsupported(f"{weight.shape[2]} taps; causal-conv1d has {TAPS[0]} to {TAPS[-1]}")
    tokens = x.transpose(1, 2)
    outputs = []
    for k, backward in enumerate(reverse):
        y = convolve(
            x=(tokens.flip(-1) if backward else tokens).contiguous(), weight=weight[k].contiguous(),
            bias=None if bias is None else bias[k].contiguous(), activation=activation,
        )  # fmt: skip
        outputs.append((y.flip(-1) if backward else y).transpose(1, 2))
    return torch.stack(outputs).permute(1, 2, 0, 3)


def causal_conv1d(x: Tensor, weight: Tensor, *args: Any) -> Tensor:
    """`vimzoo.ops.causal_conv1d`: ``(B, L, K, D)``, K first in memory."""
    if not x.numel():
        _require(load_conv(), x)
        return x.new_empty((weight.shape[0], *x.shape)).permute(1, 2, 0, 3)
    return _convolution(x, weight, *args)


def causal_conv1d_backward(grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
    """Gradients of `causal_conv1d`: of x, weight and bias."""
    if not grad.numel():
        _require(load_conv(), grad)
        return _zeros(args[:3])
    return gradients_of(_convolution, args, 3, grad)
