"""Selective scan in Triton, forward: states in registers, lanes on channels.

One program walks one path of one image for one block of channels. `scan_forward` serves both operators: `scan_paths`
gives it rows ``[dt | B | C]`` and has it project dt, `selective_scan` gives it delta; every tensor comes with strides,
so both layouts are read where they lie. See README.md, section "Triton".
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
COLUMN = tl.constexpr(2)  # codes of closed forms: row, row reversed, column, column reversed


@triton.jit
def sigmoid(v):
    """``1 / (1 + e^-v)``."""
    return 1.0 / (1.0 + tl.exp2(v * -LOG2E))


@triton.jit
def softplus(v):
    """``max(v, 0) + log(1 + e^-|v|)``; log(1 + t) is ``t (1 + t q(t))`` on [0, 1], relative error 3.4e-8.

    ``log(1 + t)`` taken literally would lose all digits of a small step size.
    """
    t = tl.exp2(tl.abs(v) * -LOG2E)
    q = 5.364816601e-3 * t - 3.006576312e-2
    q = q * t + 7.920449105e-2
    q = q * t - 1.375379883e-1
    q = q * t + 1.915365342e-1
    q = q * t - 2.485716332e-1
    q = q * t + 3.332132258e-1
    q = q * t - 4.999964796e-1
    return tl.maximum(v, 0.0) + t * (1.0 + t * q)


@triton.jit
def walk(codes, k, height, width):
    """How direction k moves: its code, tokens from step to step, steps until it wraps, tokens at a wrap."""
    code = (codes >> (4 * k)) & 15
    sign = 1 - 2 * (code & 1)
    column = code >= COLUMN
    stride = tl.where(column, width, 1) * sign
    count = tl.where(column, height, height * width)
    wrap = tl.where(column, 1 - (height - 1) * width, 1) * sign
    return code, stride, count, wrap


@triton.jit
def token_at(table, code, k, step, steps, height, width):
    """Token that direction k visits at a step; -1 is a pad."""
    if table is not None:
        token = tl.load(table + k * steps + step)
    else:
        index = tl.where((code & 1) == 1, height * width - 1 - step, step)
        token = tl.where(code >= COLUMN, (index % height) * width + index // height, index)
    return token


@triton.jit
def token_after(table, token, inner, k, step, steps, stride, count, wrap):
    """Token at ``step``, which follows ``token``, without a division; past the end the last one stays."""
    if table is not None:
        token = tl.load(table + k * steps + tl.minimum(step, steps - 1))
    else:
        inner += 1
        turn = inner == count
        token += tl.where(step < steps, tl.where(turn, wrap, stride), 0)
        inner = tl.where(turn, 0, inner)
    return token, inner


@triton.jit
def unless_pad(mask, token):
    """``mask`` where ``token`` is one; written so that the interpreter, whose scalars are arrays, agrees."""
    return mask & (tl.zeros(mask.shape, tl.int32) + token >= 0)


@triton.jit
def row_pointers(
    dt, B, C, dt_s, B_s, C_s, b, k, g, c, r, n, R: tl.constexpr, N: tl.constexpr, ALIGN: tl.constexpr
):
    """Where the dt row (or delta), B and C of token 0 lie."""
    if R > 0:
        row = dt + tl.multiple_of(b * dt_s[0] + k * dt_s[2], ALIGN)
        dt, B, C = row + r, row + R + n, row + (R + N) + n
    else:
        dt += b * dt_s[0] + k * dt_s[2] + c * dt_s[3]
        B += b * B_s[0] + k * B_s[2] + g * B_s[3] + n * B_s[4]
        C += b * C_s[0] + k * C_s[2] + g * C_s[3] + n * C_s[4]
    return dt, B, C


@triton.jit
def load_token(
    x, dt, B, C, x_l, dt_l, B_l, C_l, token, table, ok, lows, ns, R: tl.constexpr, ALIGN: tl.constexpr,
    NO_C: tl.constexpr,
):  # fmt: skip
    """One token's input, dt row ``(R, 1)`` (or delta), B and C ``(N, 1)``, in their own dtype; a pad's are zero.

    With NO_C rows are ``[dt | B]`` and C is 1.

    ``x`` to ``C`` point at token 0; ``ok``, ``lows`` and ``ns`` mask channels, dt columns and states.
    """
    if table is not None:
        at = tl.maximum(token, 0).to(tl.int64)
        ok, lows, ns = unless_pad(ok, token), unless_pad(lows, token), unless_pad(ns, token)
    else:
        at = token.to(tl.int64)
    u = tl.load(x + at * x_l, mask=ok, other=0.0)
    if R > 0:
        row = tl.multiple_of(at * dt_l, ALIGN)  # so that neighbours in a row are loaded together
        low = tl.load(dt + row, mask=lows, other=0.0)
        Bt = tl.load(B + row, mask=ns, other=0.0)
        if NO_C:
            Ct = ns.to(tl.float32)
        else:
            Ct = tl.load(C + row, mask=ns, other=0.0)
    else:
        low = tl.load(dt + at * dt_l, mask=ok, other=0.0)
        Bt = tl.load(B + at * B_l, mask=ns, other=0.0)
        Ct = tl.load(C + at * C_l, mask=ns, other=0.0)
    return u.to(tl.float32), low.to(tl.float32), Bt.to(tl.float32), Ct.to(tl.float32)


@triton.jit
def step_before_softplus(low, w, offset, R: tl.constexpr):
    """dt projection and bias."""
    if R > 0:
        pre = tl.sum(w * low.to(tl.float32), axis=0) + offset
    else:
        pre = low.to(tl.float32) + offset
    return pre


@triton.jit
def block_of(channels, per_group, BLOCK_D: tl.constexpr):
    """Image, group, channels ``(BLOCK_D,)`` and which of them exist, from the first axis of the grid."""
    per = tl.cdiv(per_group, BLOCK_D)
    blocks = (channels // per_group) * per
    b = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    inside = (block % per) * BLOCK_D + tl.arange(0, BLOCK_D)
    return b, block // per, block % per, (block // per) * per_group + inside, inside < per_group


@triton.jit
def parameters(A, W, bias, D, A_k, A_d, A_n, W_k, W_d, W_r, bias_k, D_k, k, c, ok, N, R, N_PAD: tl.constexpr,
               R_PAD: tl.constexpr):  # fmt: skip
    """``A log2(e) (N, D)``, ``W (R, D)``, bias and skip ``(D,)`` of direction k in float32; zero where masked."""
    n = tl.arange(0, N_PAD)[:, None]
    A2 = tl.load(A + k * A_k + c[None, :] * A_d + n * A_n, mask=(n < N) & ok[None, :], other=0.0)
    w = 0.0
    if R > 0:
        r = tl.arange(0, R_PAD)[:, None]
        w = tl.load(W + k * W_k + c[None, :] * W_d + r * W_r, mask=(r < R) & ok[None, :], other=0.0)
        w = w.to(tl.float32)
    offset = 0.0
    if bias is not None:
        offset = tl.load(bias + k * bias_k + c, mask=ok, other=0.0).to(tl.float32)
    skip = 0.0
    if D is not None:
        skip = tl.load(D + k * D_k + c, mask=ok, other=0.0).to(tl.float32)
    return A2.to(tl.float32) * LOG2E, w, offset, skip


# A and W come with unspecialised strides, and channels of states are `one` apart: were the compiler told what lies side
# by side in memory, it would deal lanes out for the sake of that access, and sums over states would become shuffles.
@triton.jit(do_not_specialize=["A_d", "A_n", "W_d", "W_r", "codes", "one"])
def scan_forward(
    x, dt, B, C, A, W, bias, D, z, table, out, total, states, initial, last,
    x_s, dt_s, B_s, C_s, z_s, out_s, total_s, A_k, A_d, A_n, W_k, W_d, W_r, bias_k, D_k,
    channels, per_group, steps, height, width, codes, one,
    N: tl.constexpr, R: tl.constexpr, N_PAD: tl.constexpr, R_PAD: tl.constexpr, BLOCK_D: tl.constexpr,
    CHUNK: tl.constexpr, SOFTPLUS: tl.constexpr, BY_STEP: tl.constexpr, ALIGN: tl.constexpr,
    NO_C: tl.constexpr,
):  # fmt: skip
    """One direction, block of channels and image a program; grid ``(B * blocks, directions)``.

    Strides are ``(b, l, k, d)`` of x, dt, z, out and total, ``(b, l, k, g, n)`` of B and C. With R > 0 ``dt`` points at
    rows ``[dt | B | C]``, whose strides and offsets are multiples of ALIGN items; otherwise it is delta.

    Args:
        out: where there is nothing to merge: the gated output, by token or (BY_STEP) by step; or None.
        total: float32 ``(B, K, L, D)``, each direction's output by token, zeroed where there is a table; or None.
        states: ``(B, K, chunks, N, D)`` before every CHUNK steps; or None.
        initial, last: ``(B, K, D, N)``, the states before the first step (zero if None) and after the last; or None.
        codes: four bits for each direction's closed form.
    """
    b, g, _, c, ok = block_of(channels, per_group, BLOCK_D)
    b, g = b.to(tl.int64), g.to(tl.int64)
    k = tl.program_id(1)
    n = tl.arange(0, N_PAD)[:, None]
    r = tl.arange(0, R_PAD)[:, None]
    A2, w, offset, skip = parameters(
        A, W, bias, D, A_k, A_d, A_n, W_k, W_d, W_r, bias_k, D_k, k, c, ok, N, R, N_PAD, R_PAD
    )
    c = c.to(tl.int64)
    x += b * x_s[0] + k.to(tl.int64) * x_s[2] + c * x_s[3]
    dt, B, C = row_pointers(dt, B, C, dt_s, B_s, C_s, b, k.to(tl.int64), g, c, r, n, R, N, ALIGN)
    if z is not None:
        z += b * z_s[0] + c * z_s[3]
    if out is not None:
        out += b * out_s[0] + k.to(tl.int64) * out_s[2] + c * out_s[3]
    if total is not None:
        total += b * total_s[0] + k.to(tl.int64) * total_s[2] + c * total_s[3]
    plane = n * channels + c[None, :] * one
    if states is not None:
        states += (b * tl.num_programs(1) + k) * (tl.cdiv(steps, CHUNK).to(tl.int64) * N * channels) + plane

    code, stride, count, wrap = walk(codes, k, height, width)
    token = token_at(table, code, k, 0, steps, height, width)
    inner = 0
    exists = (n < N) & ok[None, :]
    h = tl.zeros([N_PAD, BLOCK_D], tl.float32)
    at_end = ((b * tl.num_programs(1) + k) * channels + c[None, :]) * N + n * one
    if initial is not None:
        h = tl.load(initial + at_end, mask=exists, other=0.0)
    values = load_token(
        x, dt, B, C, x_s[1], dt_s[1], B_s[1], C_s[1], token, table, ok, r < R, n < N, R, ALIGN, NO_C
    )
    for step in range(steps):
        u, low, Bt, Ct = values
        here = token
        # the next token's values are on their way while this one's are used
        token, inner = token_after(table, token, inner, k, step + 1, steps, stride, count, wrap)
        values = load_token(
            x, dt, B, C, x_s[1], dt_s[1], B_s[1], C_s[1], token, table, ok, r < R, n < N, R, ALIGN, NO_C
        )
        if states is not None:  # noqa: SIM102
            if step % CHUNK == 0:
                tl.store(states, h, mask=exists)
                states += N * channels
        u = u.to(tl.float32)
        delta = step_before_softplus(low, w, offset, R)
        if SOFTPLUS:
            delta = softplus(delta)
        h = tl.exp2(delta[None, :] * A2) * h + (delta * u)[None, :] * Bt.to(tl.float32)
        y = tl.sum(h * Ct.to(tl.float32), axis=0) + skip * u
        kept = ok
        if table is not None:
            kept = unless_pad(ok, here)
        at = tl.maximum(here, 0).to(tl.int64)
        if total is not None:
            if table is not None:
                y += tl.load(total + at * total_s[1], mask=kept, other=0.0)
            tl.store(total + at * total_s[1], y, mask=kept)
            if table is not None:
                tl.debug_barrier()  # a path may come back to a token
        if out is not None:
            if z is not None:
                gate = tl.load(z + at * z_s[1], mask=kept, other=0.0).to(tl.float32)
                y *= gate * sigmoid(gate)
            if BY_STEP:
                tl.store(out, y.to(out.dtype.element_ty), mask=ok)
                out += out_s[1]
            else:
                tl.store(out + at * out_s[1], y.to(out.dtype.element_ty), mask=kept)
    if last is not None:
        tl.store(last + at_end, h, mask=exists)


@triton.jit
def finish_merged(total, z, out, z_s, tokens, channels, SLOTS: tl.constexpr, BLOCK_L: tl.constexpr,
                  BLOCK_D: tl.constexpr):  # fmt: skip
    """Sum ``total (B, SLOTS, L, D)`` over its slots in their order, gate and round to ``out (B, L, D)``.

    Grid ``(B * token blocks, channel blocks)``.
    """
    blocks = tl.cdiv(tokens, BLOCK_L)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    t = ((tl.program_id(0) % blocks) * BLOCK_L + tl.arange(0, BLOCK_L))[:, None].to(tl.int64)
    c = (tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D))[None, :]
    ok = (t < tokens) & (c < channels)
    size = tokens.to(tl.int64) * channels
    y = tl.zeros([BLOCK_L, BLOCK_D], tl.float32)
    for slot in tl.static_range(SLOTS):
        y += tl.load(total + (b * SLOTS + slot) * size + t * channels + c, mask=ok, other=0.0)
    if z is not None:
        gate = tl.load(z + b * z_s[0] + t * z_s[1] + c * z_s[3], mask=ok, other=0.0).to(tl.float32)
        y *= gate * sigmoid(gate)
    tl.store(out + b * size + t * channels + c, y.to(out.dtype.element_ty), mask=ok)
