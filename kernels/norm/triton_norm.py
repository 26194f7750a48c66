"""Residual addition and RMSNorm or LayerNorm in Triton, one pass forward, one backward. See README.md, "Triton"."""

import triton
import triton.language as tl


@triton.jit
def normalised(stream, ok, channels, eps, RMS: tl.constexpr):
    """``stream (M, D)`` less its mean (unless RMS) over its deviation, and 1 / deviation ``(M, 1)``."""
    centred = stream
    if not RMS:
        mean = tl.sum(stream, axis=1, keep_dims=True) / channels
        centred = tl.where(ok, stream - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=1, keep_dims=True) / channels + eps)
    return centred * scale, scale


@triton.jit(do_not_specialize=["eps"])
def norm_forward(
    x, residual, weight, bias, out, kept, rows, channels, eps, RMS: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """BLOCK_M rows a program; ``kept`` is the stream ``x + residual``. All dense."""
    m = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None].to(tl.int64)
    c = tl.arange(0, BLOCK_D)[None, :]
    ok = (m < rows) & (c < channels)
    at = m * channels + c
    stream = tl.load(x + at, mask=ok, other=0.0).to(tl.float32)
    if residual is not None:
        stream += tl.load(residual + at, mask=ok, other=0.0).to(tl.float32)
    tl.store(kept + at, stream.to(kept.dtype.element_ty), mask=ok)
    y, _ = normalised(stream, ok, channels, eps, RMS)
    y *= tl.load(weight + c, mask=c < channels, other=0.0).to(tl.float32)
    if bias is not None:
        y += tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=["eps"])
def norm_backward(
    grad, grad_kept, kept, weight, dx, d_residual, d_weight, d_bias, rows, channels, per_program, eps,
    RMS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """``per_program`` rows, BLOCK_M at a time; parameters' gradients one part a program, ``(programs, D)`` float32."""
    c = tl.arange(0, BLOCK_D)[None, :]
    w = tl.load(weight + c, mask=c < channels, other=0.0).to(tl.float32)
    sum_w = tl.zeros([1, BLOCK_D], tl.float32)
    sum_b = tl.zeros([1, BLOCK_D], tl.float32)
    first = tl.program_id(0).to(tl.int64) * per_program
    end = tl.minimum(first + per_program, rows)
    for step in range(0, tl.cdiv(per_program, BLOCK_M)):
        m = (first + step * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
        ok = (m < end) & (c < channels)
        at = m * channels + c
        stream = tl.load(kept + at, mask=ok, other=0.0).to(tl.float32)
        dy = tl.load(grad + at, mask=ok, other=0.0).to(tl.float32)
        y, scale = normalised(stream, ok, channels, eps, RMS)
        sum_w += tl.sum(dy * y, axis=0, keep_dims=True)
        sum_b += tl.sum(dy, axis=0, keep_dims=True)
        dy *= w
        d_stream = dy - y * (tl.sum(dy * y, axis=1, keep_dims=True) / channels)
        if not RMS:
            d_stream -= tl.sum(dy, axis=1, keep_dims=True) / channels
        d_stream *= scale
        if grad_kept is not None:
            d_stream += tl.load(grad_kept + at, mask=ok, other=0.0).to(tl.float32)
        tl.store(dx + at, d_stream.to(dx.dtype.element_ty), mask=ok)
        if d_residual is not None:
            tl.store(d_residual + at, d_stream.to(d_residual.dtype.element_ty), mask=ok)
    part = tl.program_id(0).to(tl.int64) * channels + c
    tl.store(d_weight + part, sum_w, mask=c < channels)
    tl.store(d_bias + part, sum_b, mask=c < channels)
