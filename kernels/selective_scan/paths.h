/* What the two passes of scan_paths share: tokens along a path, rows and parameters of a chunk, the dt projection. */
#ifndef VIMZOO_PATHS_H
#define VIMZOO_PATHS_H

#include "task.h"

ARGUMENT_STRUCT(scan_paths, SCAN_PATHS_FIELDS);

/* Steps of a projection, which share the loads of the weights; as many as registers allow. */
enum { AT_ONCE = VL == 4 ? 4 : 8 };

static int64_t token_at(const scan_paths_args *a, int64_t k, int64_t step) {
    const int64_t code = a->codes[k];
    if (a->table) { /* checked by the operator, but memory shared with NumPy can change afterwards */
        const int64_t token = a->table[k * a->steps + step];
        return token < a->length ? token : -1;
    }
    if (code & 1) step = a->length - 1 - step;
    return code >= PATH_COLUMN ? (step % a->height) * a->width + step / a->height : step;
}

/* Every path visits each token exactly once: outputs can be stored instead of added to zeros. */
INLINE int covers(const scan_paths_args *a) { return !a->table; }

/* Up to CHUNK steps of a direction. Steps after the last, up to a multiple of AT_ONCE, have no token and zero rows. */
typedef struct {
    int64_t k, b, begin, steps; /* direction, image, first step, number of steps of this chunk */
    int64_t token[CHUNK];       /* -1: none */
    int64_t later[CHUNK], side; /* what a block of channels asks for: these tokens, `side` channels on; see ask_later */
    float *rows;                /* CHUNK rows [dt | B | C]; C is 1 where it is not given */
    const char *raw[CHUNK];     /* the same rows as they lie in x_dbl */
    int64_t columns;
    int64_t ahead;              /* from the first step of a chunk to that of the next one */
} chunk;

/* Width of a row of x_dbl. */
INLINE int64_t row_width(const scan_paths_args *a) { return a->rank + (a->without_C ? 1 : 2) * a->states; }

/* Columns of a row that vectors take: without masks a rest of few is faster one by one. */
INLINE int64_t in_vectors(int64_t columns) { return VL == 16 ? columns : columns / VL * VL; }

static void read_chunk(const scan_paths_args *a, chunk *c) {
    const int64_t given = row_width(a), wide = in_vectors(given), size = item_size(a->dtype);
    for (int64_t t = 0; t < ceil_div(c->steps, AT_ONCE) * AT_ONCE; t++) {
        const int64_t token = c->token[t] = t < c->steps ? token_at(a, c->k, c->begin + t) : -1;
        float *row = c->rows + t * c->columns;
        c->later[t] = 0;
        if (token < 0) {
            memset(row, 0, c->columns * sizeof(float));
            c->raw[t] = (const char *)row; /* zero in any dtype */
            continue;
        }
        const char *from = a->x_dbl + (c->b * a->r_b + token * a->r_l + c->k * a->r_k) * size;
        c->raw[t] = from;
        const int64_t step = c->begin + c->ahead + t, next = step < 0 || step >= a->steps ? token : token_at(a, c->k, step);
        c->later[t] = c->side ? token : next;
        ask_for(from + (next - token) * a->r_l * size);
        ask_for(from + (next - token) * a->r_l * size + 64);
        if (a->dtype == F32) memcpy(row, from, given * sizeof(float));
        else {
            for (int64_t i = 0; i < wide; i += VL) {
                const int lanes = (int)min_of(VL, wide - i);
                store_row((char *)(row + i), F32, lanes, load_row(from + i * 2, a->dtype, lanes));
            }
            for (int64_t i = wide; i < given; i++) row[i] = load_one(from + i * 2, (int)a->dtype);
        }
        for (int64_t i = given; i < c->columns; i++) row[i] = 1.0f;
    }
}

INLINE vf read_token(const chunk *c, int64_t t, const char *base, int64_t stride, const int dtype, const int lanes) {
    return c->token[t] < 0 ? splat(0.0f) : load_row(base + c->token[t] * stride * item_size(dtype), dtype, lanes);
}

/* A block of channels touches a line of each row, a pattern that processors do not foresee. So it asks for its own of the
 * next chunk, or, if `side` is set, for those of the next block. stride: items of `size` bytes from token to token. */
INLINE void ask_later(const chunk *c, int64_t t, const void *base, int64_t stride, int size) {
    ask_for((const char *)base + c->side * size + c->later[t] * (stride * size));
}

/* One direction's parameters for the channel blocks of a task. */
typedef struct {
    vf *A2, *w; /* per block N and R vectors */
    vi *pairs;  /* per block R / 2 vectors: two columns of w as bfloat16 in a lane; NULL without such instructions */
    int paired; /* the weights are bfloat16 numbers, so that `pairs` holds them exactly */
} parameters;

static void read_parameters(const scan_paths_args *a, int64_t k, int64_t first, int64_t last, parameters *p) {
    const int64_t N = a->states, R = a->rank;
    vu rest = {0};
    for (int64_t c = first, i = 0; c < last; c += VL, i++) {
        const int lanes = (int)min_of(VL, last - c);
        vf *w = p->w + i * R;
        load_rates(p->A2 + i * N, a->A + k * a->A_k + c * N, N, lanes);
        load_columns(w, a->dt_weight + k * a->w_k + c * R, R, lanes, 1.0f);
        for (int64_t r = 0; p->pairs && r + 2 <= R; r += 2) {
            const vu low = (vu)w[r], high = (vu)w[r + 1];
            rest |= (low | high) & 0xffff;
            p->pairs[i * (R / 2) + r / 2] = (vi)(high | low >> 16);
        }
    }
    p->paired = p->pairs != NULL;
    for (int lane = 0; lane < VL; lane++) p->paired &= rest[lane] == 0;
}

/* dt projection and bias of the steps from t on: before softplus. */
INLINE void project_dt(const chunk *c, int64_t t, const parameters *p, int64_t block, int64_t rank, vf bias, vf *pre) {
    const vf *w = p->w + block * rank;
    const float *row = c->rows + t * c->columns;
    int64_t r = 0;
#pragma GCC unroll 8
    for (int i = 0; i < AT_ONCE; i++) pre[i] = bias;
#if defined(PAIRS)
    if (p->paired)
        for (; r + 2 <= rank; r += 2) {
            const vi v = p->pairs[block * (rank / 2) + r / 2];
#pragma GCC unroll 8
            for (int i = 0; i < AT_ONCE; i++) {
                int32_t two;
                memcpy(&two, c->raw[t + i] + 2 * r, sizeof two);
                pre[i] = add_pairs(pre[i], v, (vi){0} + two);
            }
        }
#endif
    for (; r < rank; r++) {
        const vf v = w[r];
#pragma GCC unroll 8
        for (int i = 0; i < AT_ONCE; i++) pre[i] += v * row[r + i * c->columns];
    }
}

/* Where in states (B, K, D, N) those of one direction of an image are. */
INLINE int64_t states_at(const scan_paths_args *a, int64_t b, int64_t k) {
    return (b * a->directions + k) * a->channels * a->states;
}

INLINE float *kept_at(const scan_paths_args *a, const chunk *c, int64_t channel) {
    const int64_t chunks = ceil_div(a->steps, CHUNK);
    return a->kept + (((c->b * a->directions + c->k) * chunks + c->begin / CHUNK) * a->states) * a->channels + channel;
}

#endif
