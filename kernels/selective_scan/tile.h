/* The recurrence on one tile: up to CHUNK steps of VL channels, states in registers.
 *
 * Every layout (channels-last paths, mamba_ssm's (B, D, L)) loads its tile into float32 vectors and calls these two
 * functions, so the mathematics stands here once. States are worked off in groups of 16, 8, 4, 2 and 1, so any N is
 * exact work: N = 10 is a group of 8 and one of 2.
 */
#ifndef VIMZOO_TILE_H
#define VIMZOO_TILE_H

#include "arguments.h"
#include "io.h"

#if VL == 16
#define LARGEST_GROUP 16
#else
#define LARGEST_GROUP 8
#endif
#define BACKWARD_GROUP 8

INLINE int group_of(int left) {
    int group = LARGEST_GROUP;
    while (group > left) group /= 2;
    return group;
}

/* h: states of this group; A2 = A * log2(e). B, C: rows of ld floats, one a step. Adds <C, h> to y. */
INLINE void forward_group(const int group, int steps, vf *restrict h, const vf *restrict A2, const vf *restrict dt,
                          const vf *restrict dtu, const float *restrict B, const float *restrict C, int64_t ld,
                          vf *restrict y) {
    vf s[LARGEST_GROUP];
#pragma GCC unroll 16
    for (int n = 0; n < group; n++) s[n] = h[n];
    for (int t = 0; t < steps; t++) {
        const vf d = dt[t], w = dtu[t];
        vf even = y[t], odd = {0};
#pragma GCC unroll 16
        for (int n = 0; n < group; n++) {
            s[n] = exp2_vf(d * A2[n]) * s[n] + w * B[t * ld + n];
            if (n & 1) odd += s[n] * C[t * ld + n];
            else even += s[n] * C[t * ld + n];
        }
        y[t] = even + odd;
    }
#pragma GCC unroll 16
    for (int n = 0; n < group; n++) h[n] = s[n];
}

HELPER void tile_forward(int states, int steps, vf *h, const vf *A2, const vf *dt, const vf *dtu, const float *B,
                         const float *C, int64_t ld, vf *y) {
    for (int n = 0, group; n < states; n += group) {
        group = group_of(states - n);
#define FORWARD(size) case size: forward_group(size, steps, h + n, A2 + n, dt, dtu, B + n, C + n, ld, y); break;
        switch (group) {
#if LARGEST_GROUP == 16
            FORWARD(16)
#endif
            FORWARD(8) FORWARD(4) FORWARD(2) FORWARD(1)
        }
#undef FORWARD
    }
}

/* What the reverse sweep reads and adds to; all arrays hold one entry a step unless said otherwise. */
typedef struct {
    const vf *dt, *dtu, *g;   /* step size, step size times input, gradient of y */
    const float *B, *C;       /* rows of ld floats */
    int64_t ld;
    vf *y;                    /* += <C, h>; NULL when not needed */
    vf *d_dtu, *d_decay;      /* += gradients of dtu and of dt through exp2(dt A2), the latter / ln 2 */
    float *dB, *dC;           /* += sums over the lanes, rows of acc_ld floats */
    int64_t acc_ld;
} sweep;

/* Recomputes `steps` states from h (the state before the first step), then sweeps back. dh: gradient of the state
 * after the last step in, before the first step out. dA += its gradient. */
INLINE void backward_group(const int group, int steps, const vf *restrict h, const vf *restrict A2, const sweep *s,
                           int at, vf *restrict dh, vf *restrict dA) {
    vf kept[CHUNK + 1][BACKWARD_GROUP], decay[CHUNK][BACKWARD_GROUP], carry[BACKWARD_GROUP], sum_dA[BACKWARD_GROUP];
    float sums[CHUNK * 2 * BACKWARD_GROUP + VL];
#pragma GCC unroll 8
    for (int n = 0; n < group; n++) kept[0][n] = carry[n] = h[n];
    for (int t = 0; t < steps; t++) {
        const vf d = s->dt[t], w = s->dtu[t];
        const float *B = s->B + t * s->ld + at, *C = s->C + t * s->ld + at;
        vf y = {0};
#pragma GCC unroll 8
        for (int n = 0; n < group; n++) {
            decay[t][n] = exp2_vf(d * A2[n]);
            carry[n] = decay[t][n] * carry[n] + w * B[n];
            kept[t + 1][n] = carry[n];
            y += carry[n] * C[n];
        }
        if (s->y) s->y[t] += y;
    }
    lane_sums narrow = {.out = sums};
#pragma GCC unroll 8
    for (int n = 0; n < group; n++) carry[n] = dh[n], sum_dA[n] = dA[n];
    for (int t = steps - 1; t >= 0; t--) {
        const vf d = s->dt[t], w = s->dtu[t], g = s->g[t];
        const float *B = s->B + t * s->ld + at, *C = s->C + t * s->ld + at;
        vf d_dtu = s->d_dtu[t], d_decay = s->d_decay[t];
#pragma GCC unroll 8
        for (int n = 0; n < group; n++) {
            const vf full = carry[n] + g * C[n];
            push_sum(&narrow, full * w);
            d_dtu += full * B[n];
            carry[n] = full * decay[t][n];
            const vf through = carry[n] * kept[t][n];
            d_decay += through * A2[n];
            sum_dA[n] += through * d;
        }
#pragma GCC unroll 8
        for (int n = 0; n < group; n++) push_sum(&narrow, g * kept[t + 1][n]);
        s->d_dtu[t] = d_dtu;
        s->d_decay[t] = d_decay;
    }
    flush_sums(&narrow);
    const float *restrict sum = sums;
    for (int t = steps - 1; t >= 0; t--, sum += 2 * group) {
        float *restrict dB = s->dB + t * s->acc_ld + at, *restrict dC = s->dC + t * s->acc_ld + at;
#pragma GCC unroll 8
        for (int n = 0; n < group; n++) dB[n] += sum[n];
#pragma GCC unroll 8
        for (int n = 0; n < group; n++) dC[n] += sum[group + n];
    }
#pragma GCC unroll 8
    for (int n = 0; n < group; n++) dh[n] = carry[n], dA[n] = sum_dA[n];
}

HELPER void tile_backward(int states, int steps, const vf *h, const vf *A2, const sweep *s, vf *dh, vf *dA) {
    for (int n = 0, group; n < states; n += group) {
        group = group_of(states - n);
        if (group > BACKWARD_GROUP) group = BACKWARD_GROUP;
#define BACKWARD(size) case size: backward_group(size, steps, h + n, A2 + n, s, n, dh + n, dA + n); break;
        switch (group) { BACKWARD(8) BACKWARD(4) BACKWARD(2) BACKWARD(1) }
#undef BACKWARD
    }
}

#endif
