/* The recurrence on one tile: up to CHUNK steps of VL channels, states in registers.
 *
 * Every layout (channels-last paths, mamba_ssm's (B, D, L)) loads its tile into float32 vectors and calls these two
 * functions, so the mathematics stands here once. States are worked off in groups of 16, 10, 8, 4, 2 and 1, so any N is
 * exact work.
 */
#ifndef VIMZOO_TILE_H
#define VIMZOO_TILE_H

#include "arguments.h"
#include "io.h"

#if VL == 16
/* 2^(i/16): one register, in which a shuffle looks up 16 values beside the multiply-adds. */
static const float SIXTEENTHS[16] = {1.0f,         1.044273782f, 1.090507733f, 1.138788635f, 1.189207115f, 1.241857812f,
                                     1.296839555f, 1.354255547f, 1.414213562f, 1.476826146f, 1.542210825f, 1.610490332f,
                                     1.681792831f, 1.756252160f, 1.834008086f, 1.915206561f};
#endif

/* A step size whose product with any rate is below 1e20, as `decays` needs on AVX-512; see load_rates. */
INLINE vf bounded(vf dt) { return VL == 16 ? at_most(splat(1e9f), dt) : dt; }

/* x = 2^x for `count` vectors, operation by operation on AVX-512, so that their latencies overlap. float32 there: x = n + r
 * with n a multiple of 1/16, 2^r as a cubic, relative error 1.1e-7. The rounding of x stays in r: beyond 2e20 the cube of
 * that would overflow. */
INLINE void decays(vf *x, const int count, const int narrow) {
#if VL == 16
#define EACH _Pragma("GCC unroll 4") for (int i = 0; i < count; i++)
    const float c2 = narrow ? NARROW_C2 : 2.40226507e-1f, c3 = narrow ? NARROW_C3 : 5.5504109e-2f;
    const vf magic = splat(786432.0f); /* 1.5 * 2^19: the mantissa of x + magic ends in sixteenths */
    vf whole[4], r[4], base[4], p[4];
    if (narrow) {
        EACH whole[i] = (vf)_mm512_roundscale_ps((__m512)x[i], 0x08);
        EACH base[i] = splat(1.0f);
    } else {
        EACH x[i] = computed(x[i]);
        EACH base[i] = x[i] + magic;
        EACH whole[i] = base[i] - magic;
        EACH base[i] = (vf)_mm512_permutexvar_ps((__m512i)base[i], *(const __m512_u *)SIXTEENTHS);
    }
    EACH r[i] = x[i] - whole[i];
    EACH p[i] = c3 * r[i] + c2;
    EACH p[i] = p[i] * r[i] + LN2;
    if (!narrow) EACH r[i] *= base[i];
    EACH p[i] = p[i] * r[i] + base[i];
    EACH x[i] = (vf)_mm512_scalef_ps((__m512)p[i], (__m512)whole[i]); /* rounds n down */
#undef EACH
#else
    for (int i = 0; i < count; i++) x[i] = exp2_vf(x[i], narrow);
#endif
}

/* Of a group of states, those whose decays are computed side by side. */
#define SIDE_BY_SIDE(group) (VL < 16 || (group) % 2 ? 1 : (group) % 4 ? 2 : 4)

/* With 16 registers the constants of 2^x, the states and the rates do not fit: decays are computed before. */
#if VL == 16 || defined(NEON)
#define DECAYS_FIRST 0
#else
#define DECAYS_FIRST 1
#endif

/* States that are swept back at once. */
#define BACKWARD_GROUP (DECAYS_FIRST ? 4 : 8)

/* h: states of this group; A2 = A * log2(e). B, C: rows of ld floats, one a step. Adds <C, h> to y. */
INLINE void forward_group(const int group, const int narrow, int steps, vf *restrict h, const vf *restrict A2,
                          const vf *restrict dt, const vf *restrict dtu, const float *restrict B,
                          const float *restrict C, int64_t ld, vf *restrict y) {
    const int side = SIDE_BY_SIDE(group);
    vf s[16], before[DECAYS_FIRST ? 8 : 1][CHUNK];
    for (int n = 0; n < (DECAYS_FIRST ? group : 0); n++) {
        const vf rate = A2[n];
        for (int t = 0; t < steps; t++) before[n][t] = exp2_vf(dt[t] * rate, narrow);
    }
#pragma GCC unroll 16
    for (int n = 0; n < group; n++) s[n] = h[n];
    for (int t = 0; t < steps; t++) {
        const vf d = bounded(dt[t]), w = dtu[t];
        vf sum[2] = {y[t], {0}};
#pragma GCC unroll 16
        for (int n = 0; n < group; n += side) {
            vf decay[4];
#pragma GCC unroll 4
            for (int i = 0; i < side; i++) decay[i] = DECAYS_FIRST ? before[n + i][t] : d * A2[n + i];
            if (!DECAYS_FIRST) decays(decay, side, narrow);
#pragma GCC unroll 4
            for (int i = n; i < n + side; i++) {
                s[i] = decay[i - n] * s[i] + w * B[t * ld + i];
                sum[i & 1] += s[i] * C[t * ld + i];
            }
        }
        y[t] = sum[0] + sum[1];
    }
#pragma GCC unroll 16
    for (int n = 0; n < group; n++) h[n] = s[n];
}

/* narrow: activations have 8 or 11 bits, and so much precision is enough for the decays. */
HELPER void tile_forward(int states, int steps, vf *h, const vf *A2, const vf *dt, const vf *dtu, const float *B,
                         const float *C, int64_t ld, vf *y, int narrow) {
    int n = 0;
#define FORWARD(size)                                                                                \
    for (; states - n >= size; n += size) {                                                          \
        if (narrow) forward_group(size, 1, steps, h + n, A2 + n, dt, dtu, B + n, C + n, ld, y);      \
        else forward_group(size, 0, steps, h + n, A2 + n, dt, dtu, B + n, C + n, ld, y);             \
    }
#if VL == 16
    FORWARD(16) FORWARD(10)
#endif
    FORWARD(8) FORWARD(4) FORWARD(2) FORWARD(1)
#undef FORWARD
}

/* What the reverse sweep reads and adds to; all arrays hold one entry a step unless said otherwise. */
typedef struct {
    const vf *dt, *dtu, *g;   /* step size, step size times input, gradient of y */
    const float *B, *C;       /* rows of ld floats */
    int64_t ld;
    vf *y;                    /* += <C, h>; NULL when not needed */
    vf *d_dtu, *d_decay;      /* gradients of dtu and of dt through exp2(dt A2), the latter / ln 2 */
    float *sums;              /* += gradients of B and C: sums over the lanes, see read_sums */
} sweep;

/* Floats in which a chunk's gradients of B and C are added up. */
#define SUMS(states) (CHUNK * 2 * (states))

/* Recomputes `steps` states from h (the state before the first step), then sweeps back. dh: gradient of the state
 * after the last step in, before the first step out. dA += its gradient. first: d_dtu and d_decay are set, not added to. */
INLINE void backward_group(const int group, const int first, int steps, const vf *restrict h, const vf *restrict A2,
                           const sweep *s, int at, float *restrict sums, vf *restrict dh, vf *restrict dA) {
    vf kept[CHUNK + 1][group], decay[CHUNK][group], carry[BACKWARD_GROUP], sum_dA[BACKWARD_GROUP];
    const int side = DECAYS_FIRST ? group : SIDE_BY_SIDE(group);
#pragma GCC unroll 8
    for (int n = 0; n < group; n++) kept[0][n] = carry[n] = h[n];
    for (int t = 0; t < steps; t++) {
        const vf d = bounded(s->dt[t]), w = s->dtu[t];
        const float *B = s->B + t * s->ld + at, *C = s->C + t * s->ld + at;
#pragma GCC unroll 8
        for (int n = 0; n < group; n += side) {
            vf x[BACKWARD_GROUP];
#pragma GCC unroll 8
            for (int i = 0; i < side; i++) x[i] = d * A2[n + i];
            decays(x, side, 0);
#pragma GCC unroll 8
            for (int i = 0; i < side; i++) {
                decay[t][n + i] = x[i];
                kept[t + 1][n + i] = carry[n + i] = x[i] * carry[n + i] + w * B[n + i];
            }
        }
        if (!s->y) continue;
        vf y = s->y[t];
#pragma GCC unroll 8
        for (int n = 0; n < group; n++) y += carry[n] * C[n];
        s->y[t] = y;
    }
    lane_sums over_channels = {.out = sums};
#pragma GCC unroll 8
    for (int n = 0; n < group; n++) carry[n] = dh[n], sum_dA[n] = dA[n];
    for (int t = steps - 1; t >= 0; t--) {
        const vf d = s->dt[t], w = s->dtu[t], g = s->g[t];
        const float *B = s->B + t * s->ld + at, *C = s->C + t * s->ld + at;
        vf d_dtu = {0}, d_decay = {0}, over_lanes[2 * BACKWARD_GROUP];
#pragma GCC unroll 8
        for (int n = 0; n < group; n++) {
            const vf full = carry[n] + g * C[n];
            over_lanes[n] = full * w;
            over_lanes[group + n] = g * kept[t + 1][n];
            d_dtu += full * B[n];
            carry[n] = full * decay[t][n];
            const vf through = carry[n] * kept[t][n];
            d_decay += through * A2[n];
            sum_dA[n] += through * d;
        }
        s->d_dtu[t] = first ? d_dtu : s->d_dtu[t] + d_dtu;
        s->d_decay[t] = first ? d_decay : s->d_decay[t] + d_decay;
        push_sums(&over_channels, over_lanes, 2 * group);
    }
    flush_sums(&over_channels, 2 * group);
#pragma GCC unroll 8
    for (int n = 0; n < group; n++) dh[n] = carry[n], dA[n] = sum_dA[n];
}

/* Calls DO(group, n) for each group of states n to n + group - 1. */
#define EACH_GROUP(states, DO)                                                                       \
    for (int n = 0, group; n < (states); n += group) {                                               \
        const int left = (states) - n;                                                               \
        if (BACKWARD_GROUP == 8 && left >= 8) { DO(8, n) group = 8; }                                \
        else if (left >= 4) { DO(4, n) group = 4; }                                                  \
        else if (left >= 2) { DO(2, n) group = 2; }                                                  \
        else { DO(1, n) group = 1; }                                                                 \
    }

HELPER void tile_backward(int states, int steps, const vf *h, const vf *A2, const sweep *s, vf *dh, vf *dA) {
#define DO(size, n)                                                                                  \
    if (n) backward_group(size, 0, steps, h + n, A2 + n, s, n, s->sums + SUMS(n), dh + n, dA + n);   \
    else backward_group(size, 1, steps, h, A2, s, 0, s->sums, dh, dA);
    EACH_GROUP(states, DO)
#undef DO
}

/* Gradients of B and C, rows of ld floats, from the sums of a chunk: for each group of states lane_sums of its steps from the
 * last to the first, of B's vectors and then C's. */
HELPER void read_sums(int states, int steps, const float *sums, float *restrict dB, float *restrict dC, int64_t ld) {
#define DO(size, n)                                                                                  \
    for (int t = 0; t < steps; t++) {                                                                \
        const int push = steps - 1 - t, apart = PUSHES(2 * size);                                    \
        const float *sum = sums + SUMS(n) + (push - push % apart) * 2 * size + push % apart;         \
        for (int i = 0; i < size; i++) {                                                             \
            dB[t * ld + n + i] = sum[i * apart];                                                     \
            dC[t * ld + n + i] = sum[(size + i) * apart];                                            \
        }                                                                                            \
    }
    EACH_GROUP(states, DO)
#undef DO
}

#endif
