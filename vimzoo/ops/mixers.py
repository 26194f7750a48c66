"""Mixers, MLPs and norms in inference on the CPU, each in one call of C: see ``kernels/mixer`` and ``kernels/product``.

Their matrix products are our own, which there are with AVX2 and AVX-512. Nothing is prepared and kept: C reads the
parameters as they are at each call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .inference import runs_here
from .paths.path import COLUMN_REVERSED, ROW
from .quantized import Rounded
from .runtime import native, threads
from .runtime.abi import CONSTANTS, DTYPES, address
from .runtime.contract import MOST_REMEMBERED
from .runtime.strides import direction_stride

__all__ = ["FeedForward", "Mixer", "Norm", "Ready", "prepare", "prepare_mlp", "prepare_norm", "run", "takes"]


class Mixer(NamedTuple):
    """What `mix` computes: projection, convolution and SiLU, scan, norm, gate, projection.

    With K directions, inner width D, N states and rank R of the step sizes. A gate, ``silu`` of the second half of the
    first projection, multiplies the norm's output, or the scan's without a norm.

    Args:
        in_weight, in_bias: ``(D or 2 D, C)`` and its first axis; the two projections may be of 8 or 4 bits.
        conv_weight, conv_bias: ``(1 or K, D, W)`` and ``(1 or K, D)``, or for maps ``(D, 1, 3, 3)`` and ``(D,)``.
        x_proj: ``(1 or K, R + 2 N, D)``.
        dt_proj, dt_bias, skip: ``(1 or K, D, R)``, ``(1 or K, D)``, ``(1 or K, D)``.
        norm_weight, norm_bias: ``(D,)``, of a LayerNorm.
        out_weight, out_bias: ``(C, D)`` and ``(C,)``.
        A_log: ``(1 or K, D, N)``; it may be in float32 while the others are not.
        reverse: For each causal convolution whether it runs backward; empty for maps.
        codes: The K paths, without tables.
        eps: Of the norm.
        scale: Factor on the last projection, before its bias.
    """

    in_weight: Tensor | Rounded
    in_bias: Tensor | None
    conv_weight: Tensor
    conv_bias: Tensor | None
    x_proj: Tensor
    dt_proj: Tensor
    dt_bias: Tensor
    skip: Tensor
    norm_weight: Tensor | None
    norm_bias: Tensor | None
    out_weight: Tensor | Rounded
    out_bias: Tensor | None
    A_log: Tensor
    reverse: tuple[bool, ...]
    codes: tuple[int, ...]
    eps: float
    scale: float


class FeedForward(NamedTuple):
    """``gelu(x weight1^T + bias1) weight2^T + bias2``, without writing the hidden layer to memory.

    Args:
        weight1, bias1: ``(H, C)`` and ``(H,)``; the weights may be of 8 or 4 bits.
        weight2, bias2: ``(C, H)`` and ``(C,)``.
    """

    weight1: Tensor | Rounded
    bias1: Tensor | None
    weight2: Tensor | Rounded
    bias2: Tensor | None


class Norm(NamedTuple):
    """The norm before a mixer or an MLP: LayerNorm, or RMSNorm, with ``weight`` and ``bias`` of ``(C,)``."""

    weight: Tensor
    bias: Tensor | None
    eps: float
    rms: bool


_ADDRESSES = (
    "in_weight", "in_bias", "conv_weight", "conv_bias", "x_proj", "dt_weight", "dt_bias", "D", "norm_weight",
    "norm_bias", "out_weight", "out_bias", "A_log", "first_weight", "first_bias", "residual",
)  # fmt: skip
"""The fields in C of the tensors of a `Mixer`, of the norm before it, and of the stream."""
_OWN, _OUT = _ADDRESSES.index("A_log"), _ADDRESSES.index("out_weight")
_NO_NORM = None, None
_PLAIN = Tensor, torch.nn.Parameter
_Packed = ctypes.Array[ctypes.c_char]
_mlp_arguments = native.MlpArgs.with_fixed(
    (
        "rows", "depth", "hidden", "columns", "dtype", "threads", "weight1", "bias1", "weight2", "bias2",
        "first_weight", "first_bias", "first_eps", "first_rms", "quantized1", "quantized2", "x", "add", "out",
    ),
    {},
)  # fmt: skip


class _Kind(NamedTuple):
    """What calls of the same sizes and settings share."""

    arguments: Callable[..., bytes]
    """Of the threads, ``x``, the addition, both results, the dtype of the second, and `_ADDRESSES`."""
    work: float
    """Nanoseconds on one core."""
    alive: tuple[Any, ...]
    """What the arguments point to."""


_KINDS: dict[tuple, _Kind | None] = {}
"""By sizes and settings; ``None`` if C cannot take them."""


def takes(x: Tensor) -> bool:
    """Whether products of these rows run here; those of 16 bits need even depths besides."""
    return x.numel() > 0 and takes_dtype(x.dtype) and runs_here()


@cache
def takes_dtype(dtype: torch.dtype) -> bool:
    """Whether the native library, if there is one, has products of this dtype."""
    library = native.load()[0]
    return dtype in DTYPES and library is not None and bool(library.product_takes(DTYPES[dtype]))


class Ready(NamedTuple):
    """A mixer or an MLP whose parameters were found fit, for inputs of the shapes and dtypes that it was prepared for.

    It holds good until a parameter changes, so it is run soon after.
    """

    entry: str
    """The function in C."""
    packed: Callable[[Tensor, Tensor | None, Tensor, Tensor | None], bytes]
    """Its arguments, from input, stream, output and the stream that it writes; all tensors dense."""
    stream: torch.dtype | None
    """Of the stream that it writes, if any."""
    alive: tuple[Any, ...]
    """What the arguments point to."""


def run(ready: Sequence[Ready], x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Mixers and MLPs one after another, each of which is given the output and the stream of the one before.

    Returns:
        The last one's output, of the shape of ``x`` and dense, and its stream.
    """
    x = x.contiguous()
    alive = x, residual  # until C has read them
    streams: list[Tensor | None] = [None, None]
    outs, calls = [torch.empty_like(x) for _ in ready[:2]], []
    library = native.require()
    for i, each in enumerate(ready):
        if i < 2 and each.stream is not None:
            streams[i] = torch.empty_like(x, dtype=each.stream)
        out, kept = outs[i % 2], streams[i % 2]
        calls.append((getattr(library, each.entry), each.packed(x, residual, out, kept)))
        x, residual = out, kept
    for forward, call in calls:  # in a row: kernels empty the caches, and Python would start again
        forward(call)
    del alive
    return x, residual


def prepare(
    x: Tensor,
    m: Mixer,
    norm: Norm | None = None,
    residual: Tensor | None = None,
    stream: torch.dtype | None = None,
    add: bool = False,
) -> Ready | None:
    """A mixer, of the norm of its input, or of the norm of ``x + residual`` (if `is_inference(x)`).

    Args:
        x: Sequences ``(B, L, C)`` or maps ``(B, H, W, C)``.
        m: The mixer.
        norm: What is applied before it.
        residual: The shape of ``x``; only with ``norm``.
        stream: The dtype in which ``x + residual`` is returned too.
        add: Add ``x`` to the output.

    Returns:
        What `run` is given, with ``x`` and ``residual`` or with others like them; ``None`` where the operators have to
        run one by one.
    """
    first, last = _split(m.in_weight), _split(m.out_weight)
    if first is None or last is None or not takes(x):
        return None
    norm_weight, norm_bias = _NO_NORM if norm is None else norm[:2]
    mixer: tuple[Any, ...] = (first[0], *m[1:_OUT], last[0], *m[_OUT + 1 : _OWN], m.A_log)
    tensors = (*mixer, norm_weight, norm_bias, residual)
    found = _read(tensors, x.dtype, wide=(_OWN, len(tensors) - 1))
    kind = None if found is None else _kind_of(x, m, norm, tensors, found[1])
    if found is None or kind is None:
        return None
    count, addresses = threads.for_work(kind.work), found[0][:-1]

    def packed(x: Tensor, residual: Tensor | None, out: Tensor, kept: Tensor | None) -> bytes:
        return kind.arguments(
            count, address(x), address(x) if add else 0, address(out), address(kept),
            0 if kept is None else DTYPES[kept.dtype], *addresses, address(residual), _pointer(first[1]),
            _pointer(last[1]),
        )  # fmt: skip

    return Ready("mixer_forward", packed, stream, (tensors, first, last))


def _read(
    tensors: Sequence[Tensor | None], dtype: torch.dtype, wide: tuple[int, ...] = ()
) -> tuple[list[int], tuple[torch.Size | None, ...]] | None:
    """Addresses and shapes of tensors; ``None`` if one is not plain, on the CPU, dense and of the dtype.

    Args:
        tensors, dtype: As said.
        wide: Which may be in float32 instead.
    """
    addresses: list[int] = []
    shapes: list[torch.Size | None] = []
    for i, t in enumerate(tensors):
        if t is None:
            addresses.append(0)
            shapes.append(None)
            continue
        fits = t.dtype is dtype or (i in wide and t.dtype is torch.float32)
        if not (fits and type(t) in _PLAIN and t.is_cpu and t.is_contiguous()):
            return None
        addresses.append(t.data_ptr() or address(t))
        shapes.append(t.shape)
    return addresses, tuple(shapes)


def _split(weight: Tensor | Rounded) -> tuple[Tensor | None, _Packed | None] | None:
    """A weight as a tensor, or as what C is given of one of 8 or 4 bits; ``None`` if C cannot take it."""
    if not isinstance(weight, Rounded):
        return weight, None
    return (None, weight.packed()) if weight.takes() else None


def _pointer(packed: _Packed | None) -> int:
    return 0 if packed is None else ctypes.addressof(packed)


def _kind_of(x: Tensor, m: Mixer, norm: Norm | None, tensors: tuple, shapes: tuple) -> _Kind | None:
    """`_kind`, computed once."""
    dtypes = x.dtype, m.A_log.dtype, None if tensors[-1] is None else tensors[-1].dtype
    norm_kind = None if norm is None else norm[2:]
    key = (x.shape, m.in_weight.shape, m.out_weight.shape, shapes, dtypes, m[_OWN + 1 :], norm_kind)
    if key not in _KINDS:
        if len(_KINDS) >= MOST_REMEMBERED:
            _KINDS.clear()
        _KINDS[key] = _kind(x, m, norm, tensors[-1])
    return _KINDS[key]


def _kind(x: Tensor, m: Mixer, norm: Norm | None, residual: Tensor | None) -> _Kind | None:
    if (
        len(m.in_weight.shape) != 2
        or m.A_log.dim() != 3
        or m.dt_proj.dim() != 3
        or m.conv_weight.dim() not in (3, 4)
        or x.dim() != (3 if m.reverse else 4)
    ):
        return None
    K, dim, maps, taps = len(m.codes), x.shape[-1], not m.reverse, m.conv_weight.shape[-1]
    inner, states, rank = m.A_log.shape[1], m.A_log.shape[2], m.dt_proj.shape[-1]
    wide, filters, directions = m.in_weight.shape[0], len(m.reverse), len(m.x_proj)
    expected: list[tuple[Tensor | Rounded | None, tuple[int, ...]]] = [
        (m.in_weight, (wide, dim)), (m.in_bias, (wide,)),
        (m.conv_weight, (inner, 1, 3, 3) if maps else (filters, inner, taps)),
        (m.conv_bias, (inner,) if maps else (filters, inner)),
        (m.x_proj, (directions, rank + 2 * states, inner)),
        (m.norm_weight, (inner,)), (m.norm_bias, (inner,)), (m.out_weight, (dim, inner)), (m.out_bias, (dim,)),
    ]  # fmt: skip
    shared = [
        (m.A_log, (inner, states)),
        (m.dt_proj, (inner, rank)),
        (m.dt_bias, (inner,)),
        (m.skip, (inner,)),
    ]
    expected += [(t, (len(t), *shape)) for t, shape in shared]
    expected += [
        (residual, tuple(x.shape)),
        *(() if norm is None else ((norm.weight, (dim,)), (norm.bias, (dim,)))),
    ]
    fits = (
        all(t is None or tuple(t.shape) == shape for t, shape in expected)
        and all(len(t) in (1, K) for t in (*(t for t, _ in shared), m.x_proj))
        and wide in (inner, 2 * inner)
        and (maps or (filters in (1, K) and taps <= CONSTANTS["MOST_TAPS"]))
        and states <= native.MOST_STATES
        and all(ROW <= code <= COLUMN_REVERSED for code in m.codes)
        and (x.dtype == torch.float32 or dim % 2 == inner % 2 == 0)
    )
    if not fits:
        return None
    reverse, codes = (ctypes.c_int64 * max(filters, 1))(*m.reverse), (ctypes.c_int64 * K)(*m.codes)
    separate = filters > 1
    fields = dict(
        batch=len(x), height=x.shape[1] if maps else 1, width=x.shape[-2], dim=dim, inner=inner,
        states=states, rank=rank, directions=K,
        dtype=DTYPES[x.dtype], A_dtype=DTYPES[m.A_log.dtype], gated=int(wide > inner), taps=0 if maps else taps,
        convolutions=max(filters, 1), projections=K if separate else directions,
        reverse=ctypes.addressof(reverse), codes=ctypes.addressof(codes), eps=m.eps, scale=m.scale,
        A_k=direction_stride(m.A_log), w_k=direction_stride(m.dt_proj), bias_k=direction_stride(m.dt_bias),
        D_k=direction_stride(m.skip), p_k=direction_stride(m.x_proj),
        residual_dtype=0 if residual is None else DTYPES[residual.dtype],
    )  # fmt: skip
    if norm is not None:
        fields |= dict(first_eps=norm.eps, first_rms=int(norm.rms))
    work = x.numel() / dim * inner * (0.01 * (wide + dim) + K * (0.8 + 0.1 * states))
    called = (
        "threads", "x", "add", "out", "kept", "kept_dtype", *_ADDRESSES, "in_quantized", "out_quantized"
    )  # fmt: skip
    return _Kind(native.MixerArgs.with_fixed(called, fields), work, (reverse, codes))


def prepare_mlp(x: Tensor, m: FeedForward, norm: Norm | None = None, add: bool = False) -> Ready | None:
    """An MLP, or one of the norm of its input, likewise.

    Args:
        x: ``(..., C)``.
        m: The MLP.
        norm: What is applied before it.
        add: Add ``x`` to the output.

    Returns:
        As `prepare`.
    """
    first, second = _split(m.weight1), _split(m.weight2)
    if first is None or second is None:
        return None
    (hidden, width), (eps, rms) = m.weight1.shape, (0.0, False) if norm is None else norm[2:]
    tensors = (first[0], m.bias1, second[0], m.bias2, *(_NO_NORM if norm is None else norm[:2]))
    shapes = ((hidden, width), (hidden,), (width, hidden), (width,), (width,), (width,))
    found = _read(tensors, x.dtype) if takes(x) else None
    if found is None or not all([s is None or s == t for s, t in zip(found[1], shapes, strict=True)]):
        return None
    even = x.dtype == torch.float32 or width % 2 == hidden % 2 == 0
    if not even or (x.shape[-1], m.weight2.shape) != (width, shapes[2]):
        return None
    rows = x.numel() // width
    fixed = (
        rows, width, hidden, width, DTYPES[x.dtype], threads.for_work(0.02 * rows * hidden * width),
        *found[0], eps, rms, _pointer(first[1]), _pointer(second[1]),
    )  # fmt: skip

    def packed(x: Tensor, residual: Tensor | None, out: Tensor, kept: Tensor | None) -> bytes:
        return _mlp_arguments(*fixed, address(x), address(x) if add else 0, address(out))

    return Ready("mlp_forward", packed, None, (tensors, first, second))


def prepare_norm(x: Tensor, norm: Norm, residual: Tensor | None) -> Ready | None:
    """A norm of ``x``, or of ``x + residual``, likewise; it writes no stream.

    Args:
        x: ``(..., C)``.
        norm: The norm.
        residual: The shape of ``x``.

    Returns:
        As `prepare`.
    """
    found = _read((*norm[:2], residual), x.dtype, wide=(2,)) if takes(x) else None
    shapes = (x.shape[-1:], x.shape[-1:], x.shape)
    if found is None or not all([s is None or s == t for s, t in zip(found[1], shapes, strict=True)]):
        return None
    weight, bias = native.float_parameter(norm.weight), native.float_parameter(norm.bias)
    fixed = dict(
        rows=x.numel() // x.shape[-1], channels=x.shape[-1], rms=int(norm.rms), eps=norm.eps,
        threads=threads.for_work(0.5 * x.numel()), x_dtype=DTYPES[x.dtype], weight=address(weight),
        bias=address(bias), residual_dtype=0 if residual is None else DTYPES[residual.dtype],
    )  # fmt: skip

    def packed(x: Tensor, residual: Tensor | None, out: Tensor, kept: Tensor | None) -> bytes:
        return native.AddNormArgs(**fixed, x=address(x), residual=address(residual), out=address(out))

    return Ready("add_norm_forward", packed, None, (weight, bias))
