"""Depthwise causal convolution in Triton: all directions of a tile of tokens from one reading of them.

Tap j of a direction reads the token ``W - 1 - j`` before, or after where it runs backward. Offsets from ``1 - W`` to
``W - 1`` cover every direction; at each of them a direction has one tap or none. See README.md, section "Triton".
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def tile_of(tokens, channels, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr):
    """Image, tokens ``(1, L, 1)``, channels ``(1, 1, D)``, and which channels exist, of this program.

    Grid ``(B * token blocks, channel blocks)``.
    """
    blocks = tl.cdiv(tokens, BLOCK_L)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    t = ((tl.program_id(0) % blocks) * BLOCK_L + tl.arange(0, BLOCK_L))[None, :, None]
    c = (tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D))[None, None, :]
    return b, t, c, c < channels


@triton.jit
def tap_at(offset: tl.constexpr, reverse, k, W: tl.constexpr):
    """Tap ``(K, 1, 1)`` with which each direction reads the token ``offset`` further on; not below W if it has none."""
    return W - 1 + tl.where(((reverse >> k) & 1) == 1, -offset, offset)


@triton.jit
def token_values(x, x_l, t, tokens, ok, offset: tl.constexpr):
    """Values ``(1, L, D)`` of the tokens ``offset`` further on, zero beyond the ends. ``x`` points at token 0."""
    at = t + offset
    return tl.load(x + at.to(tl.int64) * x_l, mask=ok & (at >= 0) & (at < tokens), other=0.0).to(tl.float32)


@triton.jit
def convolved(x, x_l, weight, bias, reverse, t, c, k, ok, tokens, channels, K: tl.constexpr, W: tl.constexpr):
    """The convolution before the activation, ``(K, L, D)``."""
    y = (k + t + c) * 0.0
    if bias is not None:
        y += tl.load(bias + k * channels + c, mask=ok & (k < K), other=0.0).to(tl.float32)
    for offset in tl.static_range(1 - W, W):
        tap = tap_at(offset, reverse, k, W)
        w = tl.load(weight + (k * channels + c) * W + tap, mask=ok & (k < K) & (tap < W), other=0.0)
        y += w.to(tl.float32) * token_values(x, x_l, t, tokens, ok, offset)
    return y


@triton.jit(do_not_specialize=["reverse"])
def conv_forward(
    x, weight, bias, out, x_b, x_l, x_d, tokens, channels, batch, reverse, K: tl.constexpr, K_PAD: tl.constexpr,
    W: tl.constexpr, SILU: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """``out (K, B, L, D)``, dense; weight ``(K, D, W)`` and bias ``(K, D)`` dense; ``reverse`` one bit a direction."""
    b, t, c, ok = tile_of(tokens, channels, BLOCK_L, BLOCK_D)
    k = tl.arange(0, K_PAD)[:, None, None]
    x += b * x_b + c.to(tl.int64) * x_d
    y = convolved(x, x_l, weight, bias, reverse, t, c, k, ok, tokens, channels, K, W)
    if SILU:
        y = y / (1.0 + tl.exp2(y * -LOG2E))
    at = ((k.to(tl.int64) * batch + b) * tokens + t) * channels + c
    tl.store(out + at, y.to(out.dtype.element_ty), mask=ok & (k < K) & (t < tokens))


@triton.jit(do_not_specialize=["reverse"])
def conv_backward_weight(
    grad, x, weight, bias, d_pre, d_weight, d_bias, grad_s, x_b, x_l, x_d, tokens, channels, batch, reverse,
    K: tl.constexpr, K_PAD: tl.constexpr, W: tl.constexpr, SILU: tl.constexpr, BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradient before the activation, ``d_pre (K, B, L, D)``, and this tile's part of the parameters' gradients.

    ``d_weight (parts, K, D, W)`` and ``d_bias (parts, K, D)``, float32; parts are the first axis of the grid.
    """
    b, t, c, ok = tile_of(tokens, channels, BLOCK_L, BLOCK_D)
    k = tl.arange(0, K_PAD)[:, None, None]
    exists = ok & (k < K) & (t < tokens)
    x += b * x_b + c.to(tl.int64) * x_d
    at = b * grad_s[0] + t.to(tl.int64) * grad_s[1] + k.to(tl.int64) * grad_s[2] + c.to(tl.int64) * grad_s[3]
    dy = tl.load(grad + at, mask=exists, other=0.0).to(tl.float32)
    if SILU:
        y = convolved(x, x_l, weight, bias, reverse, t, c, k, ok, tokens, channels, K, W)
        s = 1.0 / (1.0 + tl.exp2(y * -LOG2E))
        dy *= s * (1.0 + y * (1.0 - s))
    tl.store(d_pre + ((k.to(tl.int64) * batch + b) * tokens + t) * channels + c, dy, mask=exists)
    k_row, c_row = tl.arange(0, K_PAD)[:, None], (tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D))[None, :]
    inside = (k_row < K) & (c_row < channels)
    row = (tl.program_id(0).to(tl.int64) * K + k_row) * channels + c_row
    if bias is not None:
        tl.store(d_bias + row, tl.sum(dy, axis=1), mask=inside)
    for offset in tl.static_range(1 - W, W):
        tap = tap_at(offset, reverse, k_row, W)
        part = tl.sum(dy * token_values(x, x_l, t, tokens, ok, offset), axis=1)
        tl.store(d_weight + row * W + tap, part, mask=inside & (tap < W))


@triton.jit(do_not_specialize=["reverse"])
def conv_backward_input(
    d_pre, weight, dx, tokens, channels, batch, reverse, K: tl.constexpr, W: tl.constexpr, BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """``dx (B, L, D)``, dense: a token ``offset`` further on was read with the tap of ``-offset``."""
    b, t, c, ok = tile_of(tokens, channels, BLOCK_L, BLOCK_D)
    total = (t + c) * 0.0
    for k in tl.static_range(K):
        base = d_pre + (k * batch + b) * tokens * channels + c
        for offset in tl.static_range(1 - W, W):
            tap = tap_at(-offset, reverse, k, W)
            taps = tl.zeros_like(c) + tap
            w = tl.load(weight + (k * channels + c) * W + taps, mask=ok & (taps < W), other=0.0).to(
                tl.float32
            )
            total += w * token_values(base, channels, t, tokens, ok & (taps < W), offset)
    tl.store(dx + (b * tokens + t) * channels + c, total.to(dx.dtype.element_ty), mask=ok & (t < tokens))
