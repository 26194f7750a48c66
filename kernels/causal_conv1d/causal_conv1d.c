/* Depthwise causal convolutions of one channels-last sequence, K directions in one pass, with SiLU.
 *
 * A backward direction (reverse[k]) reads ahead instead of behind: tap j of W sits at distance W - 1 - j.
 */
#include "../selective_scan/task.h"

ARGUMENTS(causal_conv1d, CAUSAL_CONV1D_FIELDS);

/* All channels of one token and direction. Rows outside the sequence are left out: taps [from, to) remain. */
INLINE void convolve_token(const causal_conv1d_args *a, int64_t k, int64_t b, int64_t l, const vf *w, const int from,
                           const int to, const int taps, const int dtype) {
    const int size = item_size(dtype);
    const int64_t step = (a->reverse[k] ? -1 : 1) * a->x_l * size;
    const char *x = a->x + (b * a->x_b + l * a->x_l) * size - (taps - 1) * step;
    char *out = a->out + ((k * a->batch + b) * a->length + l) * a->channels * size;
    const float *bias = a->bias ? a->bias + k * a->channels : NULL;
    EACH_VECTOR(a->channels, {
        vf sum = load_floats(bias ? bias + c : NULL, lanes);
        for (int j = from; j < to; j++) sum += w[j] * load_row(x + j * step + c * size, dtype, lanes);
        if (a->silu) sum = silu_vf(sum, dtype != F32);
        store_row(out + c * size, dtype, lanes, sum);
        w += taps;
    });
}

static void read_taps(const causal_conv1d_args *a, int64_t k, int64_t channel, int lanes, vf *w, vf *bias) {
    load_columns(w, a->weight + (k * a->channels + channel) * a->taps, a->taps, lanes, 1.0f);
    *bias = a->bias ? load_floats(a->bias + k * a->channels + channel, lanes) : splat(0.0f);
}

enum { STRIP = 32 }; /* tokens of a task */

typedef struct {
    const causal_conv1d_args *a;
    vf *w; /* taps of every direction and block of channels */
} convolution;

/* Tokens outside, channels inside: rows of x are read from cache by up to 2 W neighbours, outputs are written in order. */
static void convolve_strips(const void *context, int64_t first, int64_t last) {
    const causal_conv1d_args *a = ((const convolution *)context)->a;
    const vf *w = ((const convolution *)context)->w;
    const int taps = (int)a->taps;
    const int64_t strips = ceil_div(a->length, STRIP), blocks = ceil_div(a->channels, VL);
    for (int64_t task = first; task < last; task++) {
        const int64_t b = task / strips, begin = task % strips * STRIP, end = min_of(begin + STRIP, a->length);
        for (int64_t l = begin; l < end; l++)
            for (int64_t k = 0; k < a->directions; k++) {
                const int64_t room = a->reverse[k] ? a->length - 1 - l : l; /* neighbours on the side it looks to */
                const int from = room >= taps - 1 ? 0 : taps - 1 - (int)room;
                const vf *w_k = w + k * blocks * taps;
                if (taps == 4 && from == 0 && a->dtype == F32) convolve_token(a, k, b, l, w_k, 0, 4, 4, F32);
                else if (taps == 4 && from == 0 && a->dtype == BF16) convolve_token(a, k, b, l, w_k, 0, 4, 4, BF16);
                else convolve_token(a, k, b, l, w_k, from, taps, taps, (int)a->dtype);
            }
    }
}

EXPORT int vimzoo_causal_conv1d_forward(const causal_conv1d_args *a) {
    const int64_t taps = a->taps, blocks = ceil_div(a->channels, VL);
    arena scratch = arena_new(a->directions * blocks * taps * sizeof(vf));
    if (!scratch.base) return memory_short;
    const convolution c = {.a = a, .w = arena_take(&scratch, a->directions * blocks * taps * sizeof(vf))};
    for (int64_t i = 0; i < a->directions * blocks; i++) {
        const int64_t channel = i % blocks * VL;
        load_columns(c.w + i * taps, a->weight + (i / blocks * a->channels + channel) * taps, taps,
                     (int)min_of(VL, a->channels - channel), 1.0f);
    }
    vimzoo_parallel(a->threads, a->batch * ceil_div(a->length, STRIP), convolve_strips, &c);
    free(scratch.base);
    return memory_short;
}

/* One image and direction, tokens in the order in which the convolution sees them. The inputs of the taps move through `x`,
 * and the gradients of those inputs through `dx`, so that each is read or added once. */
INLINE void backward_image(const causal_conv1d_args *a, int64_t group, int64_t b, int64_t k, int64_t channel, const int lanes,
                           const int taps, const int dtype) {
    const int size = item_size(dtype), last = taps - 1;
    const int64_t begin = a->reverse[k] ? a->length - 1 : 0, by = a->reverse[k] ? -1 : 1;
    vf w[MOST_TAPS], bias, dbias = {0}, dw[MOST_TAPS] = {{0}}, x[MOST_TAPS] = {{0}}, dx[MOST_TAPS] = {{0}};
    read_taps(a, k, channel, lanes, w, &bias);
    for (int64_t i = 0; i < a->length + last; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < last; j++) x[j] = x[j + 1], dx[j] = dx[j + 1];
        dx[last] = splat(0.0f);
        if (i < a->length) {
            const int64_t token = begin + by * i;
            x[last] = load_row(a->x + (b * a->x_b + token * a->x_l + channel) * size, dtype, lanes);
            vf g = load_row(a->dy + (b * a->dy_b + token * a->dy_l + k * a->dy_k + channel) * size, dtype, lanes);
            if (a->silu) {
                vf sum = bias;
#pragma GCC unroll 4
                for (int j = 0; j < taps; j++) sum += w[j] * x[j];
                const vf s = sigmoid_vf(sum);
                g *= s * (1.0f + sum * (1.0f - s));
            }
            dbias += g;
#pragma GCC unroll 4
            for (int j = 0; j < taps; j++) dw[j] += g * x[j], dx[j] += g * w[j];
        }
        if (i >= last)
            add_floats(a->dx + (b * a->length + begin + by * (i - last)) * a->channels + channel, dx[0], lanes);
    }
    const int64_t at = (group * a->directions + k) * a->channels + channel;
    add_columns(a->dweight + at * taps, dw, taps, lanes, 1.0f);
    add_floats(a->dbias + at, dbias, lanes);
}

static void backward_tasks(const void *arguments, int64_t first, int64_t last) {
    const causal_conv1d_args *a = arguments;
    const int64_t blocks = ceil_div(a->channels, VL);
    for (int64_t task = first; task < last; task++) {
        const int64_t group = task / blocks, channel = task % blocks * VL;
        const int lanes = (int)min_of(VL, a->channels - channel);
        for (int64_t b = a->batch * group / a->batch_groups; b < a->batch * (group + 1) / a->batch_groups; b++)
            for (int64_t k = 0; k < a->directions; k++) {
                if (a->taps == 4) SPECIALISE(a->dtype, lanes, backward_image(a, group, b, k, channel, lanes_, 4, dtype_));
                else backward_image(a, group, b, k, channel, lanes, (int)a->taps, (int)a->dtype);
            }
    }
}
EXPORT int vimzoo_causal_conv1d_backward(const causal_conv1d_args *a) {
    vimzoo_parallel(a->threads, a->batch_groups * ceil_div(a->channels, VL), backward_tasks, a);
    return memory_short;
}
