"""Selective scan in Triton, backward: recomputed from saved states, sums over channels as partial results.

A program walks one path of one image backwards, chunk by chunk. Of a chunk it first recomputes the states before every
STRETCH steps into scratch memory, then takes one stretch after another, last first: recomputes its states into
registers and sweeps back over them. Nothing is added atomically; what several programs contribute to is written side by
side and summed by the caller in a fixed order.
"""

import triton
import triton.language as tl

from .triton_scan import (
    block_of,
    load_token,
    parameters,
    row_pointers,
    sigmoid,
    softplus,
    step_before_softplus,
    token_after,
    token_at,
    unless_pad,
    walk,
)

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def add_or_store(pointer, value, mask, ADD: tl.constexpr):
    """Write ``value``, added to what is there if ADD; no other program writes there."""
    if ADD:
        value += tl.load(pointer, mask=mask, other=0.0)
    tl.store(pointer, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["A_d", "A_n", "W_d", "W_r", "codes", "one"])
def scan_backward(
    grad, x, dt, B, C, A, W, bias, D, z, table, states, scratch, grad_last,
    dx, d_dt, dB, dC, dA, dW, dbias, dD, dz, total, d_initial,
    grad_s, x_s, dt_s, B_s, C_s, z_s, dx_s, d_dt_s, dB_s, dC_s, dz_s, total_s,
    A_k, A_d, A_n, W_k, W_d, W_r, bias_k, D_k, d_dt_part, dB_part,
    channels, per_group, steps, height, width, codes, one,
    N: tl.constexpr, R: tl.constexpr, N_PAD: tl.constexpr, R_PAD: tl.constexpr, BLOCK_D: tl.constexpr,
    CHUNK: tl.constexpr, STRETCH: tl.constexpr, SOFTPLUS: tl.constexpr, BY_STEP: tl.constexpr, ADD: tl.constexpr,
    ALIGN: tl.constexpr, NO_C: tl.constexpr,
):  # fmt: skip
    """One direction, block of channels and image a program; grid ``(B * blocks, directions)``.

    Inputs and their strides as in `scan_forward`; ``grad`` is by token, or by step if BY_STEP.

    Args:
        states: as the forward pass saves them; scratch: float32, CHUNK / STRETCH states for every program.
        grad_last, d_initial: gradients of the states after the last step and before the first, ``(B, K, D, N)``, or
            None.
        dx, dz: strides ``(b, l, k, d)``; dx in x's dtype or, if ADD, zeroed float32.
        d_dt: with R > 0 gradients of rows ``[dt | B | C]``, float32, one part per block of channels (``d_dt_part``
            apart), strides ``(b, l, k)``, zeroed if ADD; otherwise that of delta. dB, dC then are apart, with strides
            ``(b, l, k, g, n)`` and parts ``dB_part`` apart.
        dA, dW, dbias, dD: float32 ``(B, K, D, N)``, ``(B, K, D, R)``, ``(B, K, D)``, ``(B, K, D)``.
        dz: gradient of the gate, where one direction is all there is; or None.
        total: each direction's output by token, strides ``(b, l, k, d)``, for a gate that sees their sum; or None.
        ADD: paths may come back to a token; the outputs above are added to.
    """
    b, g, part, c, ok = block_of(channels, per_group, BLOCK_D)
    b, g, part = b.to(tl.int64), g.to(tl.int64), part.to(tl.int64)
    k = tl.program_id(1)
    wide_k = k.to(tl.int64)
    n = tl.arange(0, N_PAD)[:, None]
    r = tl.arange(0, R_PAD)[:, None]
    A2, w, offset, skip = parameters(
        A, W, bias, D, A_k, A_d, A_n, W_k, W_d, W_r, bias_k, D_k, k, c, ok, N, R, N_PAD, R_PAD
    )
    at_parameter = (b * tl.num_programs(1) + k) * channels + c
    c = c.to(tl.int64)
    x += b * x_s[0] + wide_k * x_s[2] + c * x_s[3]
    dt, B, C = row_pointers(dt, B, C, dt_s, B_s, C_s, b, wide_k, g, c, r, n, R, N, ALIGN)
    grad += b * grad_s[0] + wide_k * grad_s[2] + c * grad_s[3]
    dx += b * dx_s[0] + wide_k * dx_s[2] + c * dx_s[3]
    if R > 0:
        # rows' gradients are vectors over columns, the same in every lane
        d_row = d_dt + part * d_dt_part + b * d_dt_s[0] + wide_k * d_dt_s[2]
        d_low, dB, dC = (
            d_row + tl.arange(0, R_PAD),
            d_row + R + tl.arange(0, N_PAD),
            d_row + R + N + tl.arange(0, N_PAD),
        )
        dB_l, dC_l = d_dt_s[1], d_dt_s[1]
    else:
        d_dt += b * d_dt_s[0] + wide_k * d_dt_s[2] + c * d_dt_s[3]
        dB += part * dB_part + b * dB_s[0] + wide_k * dB_s[2] + g * dB_s[3] + tl.arange(0, N_PAD) * dB_s[4]
        dC += part * dB_part + b * dC_s[0] + wide_k * dC_s[2] + g * dC_s[3] + tl.arange(0, N_PAD) * dC_s[4]
        dB_l, dC_l = dB_s[1], dC_s[1]
    if z is not None:
        z += b * z_s[0] + c * z_s[3]
    if dz is not None:
        dz += b * dz_s[0] + c * dz_s[3]
    if total is not None:
        total += b * total_s[0] + wide_k * total_s[2] + c * total_s[3]
    plane = n * channels + c[None, :]
    exists = (n < N) & ok[None, :]
    chunks = tl.cdiv(steps, CHUNK)
    states += (b * tl.num_programs(1) + k) * (chunks.to(tl.int64) * N * channels) + plane
    tile = n * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    program = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + k
    scratch += program * (CHUNK // STRETCH * N_PAD * BLOCK_D) + tile

    code, stride, count, wrap = walk(codes, k, height, width)
    dh = tl.zeros([N_PAD, BLOCK_D], tl.float32)
    if grad_last is not None:
        dh = tl.load(grad_last + at_parameter[None, :] * N + n * one, mask=exists, other=0.0)
    sum_A = tl.zeros([N_PAD, BLOCK_D], tl.float32)
    sum_bias = tl.zeros([BLOCK_D], tl.float32)
    sum_D = tl.zeros([BLOCK_D], tl.float32)
    sum_W = tl.zeros([R_PAD, BLOCK_D], tl.float32)
    column = tl.arange(0, N_PAD)
    low_column = tl.arange(0, R_PAD)

    for back in range(chunks):
        begin = (chunks - 1 - back) * CHUNK
        end = tl.minimum(begin + CHUNK, steps)
        h = tl.load(states + (chunks - 1 - back).to(tl.int64) * (N * channels), mask=exists, other=0.0)
        token = token_at(table, code, k, begin, steps, height, width)
        inner = begin % count
        for step in range(begin, end):
            if (step - begin) % STRETCH == 0:
                tl.store(scratch + (step - begin) // STRETCH * (N_PAD * BLOCK_D), h)
            u, low, Bt, _ = load_token(
                x, dt, B, C, x_s[1], dt_s[1], B_s[1], C_s[1], token, table, ok, r < R, n < N, R, ALIGN, NO_C
            )
            delta = step_before_softplus(low, w, offset, R)
            if SOFTPLUS:
                delta = softplus(delta)
            h = tl.exp2(delta[None, :] * A2) * h + (delta * u.to(tl.float32))[None, :] * Bt.to(tl.float32)
            token, inner = token_after(table, token, inner, k, step + 1, steps, stride, count, wrap)
        tl.debug_barrier()  # scratch is read in the layout of another loop

        stretches = tl.cdiv(end - begin, STRETCH)
        for behind in range(stretches):
            stretch = stretches - 1 - behind
            first = begin + stretch * STRETCH
            h = tl.load(scratch + stretch * (N_PAD * BLOCK_D))
            token = token_at(table, code, k, first, steps, height, width)
            inner = first % count
            # what the sweep back needs of each step; a step past the end has no size and leaves the state as it is
            hs, tokens, pres, deltas = (h,), (), (), ()
            for i in tl.static_range(STRETCH):
                u, low, Bt, _ = load_token(
                    x, dt, B, C, x_s[1], dt_s[1], B_s[1], C_s[1], token, table, ok, r < R, n < N, R, ALIGN, NO_C
                )  # fmt: skip
                pre = step_before_softplus(low, w, offset, R)
                delta = pre
                if SOFTPLUS:
                    delta = softplus(pre)
                delta = tl.where(first + i < end, delta, 0.0)
                h = tl.exp2(delta[None, :] * A2) * h + (delta * u.to(tl.float32))[None, :] * Bt.to(tl.float32)
                hs, tokens, pres, deltas = hs + (h,), tokens + (token,), pres + (pre,), deltas + (delta,)  # noqa: RUF005
                token, inner = token_after(table, token, inner, k, first + i + 1, steps, stride, count, wrap)
            for i in tl.static_range(STRETCH - 1, -1, -1):
                delta = deltas[i]
                u, low, Bt, Ct = load_token(  # once more: kept from above they would not fit the registers
                    x, dt, B, C, x_s[1], dt_s[1], B_s[1], C_s[1], tokens[i], table, ok, r < R, n < N, R, ALIGN, NO_C
                )  # fmt: skip
                u, Bt, Ct = u.to(tl.float32), Bt.to(tl.float32), Ct.to(tl.float32)
                at = tl.maximum(tokens[i], 0).to(tl.int64)
                limit = tl.where(first + i < end, tokens[i], -1)  # past the end as at a pad
                seen = unless_pad(ok, limit)
                place = at
                if BY_STEP:
                    place = tl.minimum(first + i, steps - 1).to(tl.int64)
                dy = tl.load(grad + place * grad_s[1], mask=seen, other=0.0).to(tl.float32)
                y = tl.sum(hs[i + 1] * Ct, axis=0) + skip * u
                if z is not None:
                    gate = tl.load(z + at * z_s[1], mask=seen, other=0.0).to(tl.float32)
                    s = sigmoid(gate)
                    if dz is not None:
                        d_gate = dy * y * s * (1.0 + gate * (1.0 - s))
                        tl.store(dz + at * dz_s[1], d_gate.to(dz.dtype.element_ty), mask=seen)
                    dy *= gate * s
                if total is not None:
                    add_or_store(total + at * total_s[1], y, seen, ADD)
                full = dh + dy[None, :] * Ct
                grad_C = tl.sum(dy[None, :] * hs[i + 1], axis=1)
                grad_B = tl.sum(full * (delta * u)[None, :], axis=1)
                d_input = tl.sum(full * Bt, axis=0)  # gradient of delta * u
                dh = full * tl.exp2(delta[None, :] * A2)
                through = dh * hs[i]
                d_delta = d_input * u + tl.sum(through * A2, axis=0) * LN2
                sum_A += through * delta[None, :]
                sum_D += dy * u
                du = d_input * delta + dy * skip
                d_pre = d_delta
                if SOFTPLUS:
                    d_pre = d_delta * sigmoid(pres[i])
                d_pre = tl.where(first + i < end, d_pre, 0.0)
                sum_bias += d_pre
                add_or_store(dx + at * dx_s[1], du, seen, ADD)
                row_seen = unless_pad(column < N, limit)
                if R > 0:
                    sum_W += d_pre[None, :] * low.to(tl.float32)
                    grad_low = tl.sum(w * d_pre[None, :], axis=1)
                    add_or_store(d_low + at * dB_l, grad_low, unless_pad(low_column < R, limit), ADD)
                else:
                    tl.store(d_dt + at * d_dt_s[1], d_pre.to(d_dt.dtype.element_ty), mask=seen)
                add_or_store(dB + at * dB_l, grad_B, row_seen, ADD)
                if not NO_C:
                    add_or_store(dC + at * dC_l, grad_C, row_seen, ADD)
                if ADD:
                    tl.debug_barrier()  # a later visit of the token reads what was written here
        tl.debug_barrier()  # before the next chunk overwrites scratch

    if d_initial is not None:
        tl.store(d_initial + at_parameter[None, :] * N + n * one, dh, mask=exists)
    tl.store(dA + at_parameter[None, :] * N + n * one, sum_A, mask=exists)
    if R > 0:
        tl.store(dW + at_parameter[None, :] * R + r * one, sum_W, mask=(r < R) & ok[None, :])
    if bias is not None:
        tl.store(dbias + at_parameter, sum_bias, mask=ok)
    if D is not None:
        tl.store(dD + at_parameter, sum_D, mask=ok)


@triton.jit
def gate_backward(grad, total, z, dz, grad_s, z_s, tokens, channels, SLOTS: tl.constexpr, BLOCK_L: tl.constexpr,
                  BLOCK_D: tl.constexpr):  # fmt: skip
    """Gradient ``dz (B, L, D)`` of the gate over the sum of ``total (B, SLOTS, L, D)``; grid as `finish_merged`."""
    blocks = tl.cdiv(tokens, BLOCK_L)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    t = ((tl.program_id(0) % blocks) * BLOCK_L + tl.arange(0, BLOCK_L))[:, None].to(tl.int64)
    c = (tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D))[None, :]
    ok = (t < tokens) & (c < channels)
    size = tokens.to(tl.int64) * channels
    y = tl.zeros([BLOCK_L, BLOCK_D], tl.float32)
    for slot in tl.static_range(SLOTS):
        y += tl.load(total + (b * SLOTS + slot) * size + t * channels + c, mask=ok, other=0.0)
    dy = tl.load(grad + b * grad_s[0] + t * grad_s[1] + c * grad_s[3], mask=ok, other=0.0).to(tl.float32)
    gate = tl.load(z + b * z_s[0] + t * z_s[1] + c * z_s[3], mask=ok, other=0.0).to(tl.float32)
    s = sigmoid(gate)
    d_gate = dy * y * s * (1.0 + gate * (1.0 - s))
    tl.store(dz + b * size + t * channels + c, d_gate.to(dz.dtype.element_ty), mask=ok)
