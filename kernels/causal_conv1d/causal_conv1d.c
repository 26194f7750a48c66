/* Depthwise causal convolutions of one channels-last sequence, K directions in one pass, with SiLU.
 *
 * A backward direction (reverse[k]) reads ahead instead of behind: tap j of W sits at distance W - 1 - j.
 */
#include "../selective_scan/task.h"

#define MOST_TAPS 16

/* Field order is that of CausalConvArgs in vimzoo/ops/native.py. */
typedef struct {
    int64_t batch, length, channels, directions, taps, silu, dtype, threads, batch_groups;
    const char *x;
    int64_t x_b, x_l;
    const float *weight, *bias; /* (K, D, W), (K, D) or NULL */
    const int64_t *reverse;
    char *out; /* (K, B, L, D) */
    const char *dy;
    int64_t dy_b, dy_l, dy_k;
    float *dx, *dweight, *dbias; /* (B, L, D), (batch_groups, K, D, W), (batch_groups, K, D), zeroed */
} causal_conv1d_args;

INLINE int64_t token_of(const causal_conv1d_args *a, int64_t k, int64_t l, int64_t tap) {
    const int64_t distance = a->taps - 1 - tap;
    const int64_t token = a->reverse[k] ? l + distance : l - distance;
    return token < 0 || token >= a->length ? -1 : token;
}

INLINE vf read_x(const causal_conv1d_args *a, int64_t b, int64_t token, int64_t channel, int lanes) {
    if (token < 0) return splat(0.0f);
    return load_row(a->x + (b * a->x_b + token * a->x_l + channel) * item_size(a->dtype), a->dtype, lanes);
}

/* Tokens [begin, end) of one image and block of channels; the last `taps` inputs stay in registers. */
INLINE void convolve(const causal_conv1d_args *a, const int taps, int64_t k, int64_t b, int64_t begin, int64_t end,
                     int64_t channel, const int dtype, const int lanes, const vf *taps_w, vf bias) {
    const int backward = a->reverse[k] != 0, size = item_size(dtype);
    const int64_t step = backward ? -1 : 1, from = backward ? end - 1 : begin;
    char *out = a->out + (((k * a->batch + b) * a->length + from) * a->channels + channel) * size;
    const char *x = a->x + (b * a->x_b + from * a->x_l + channel) * size;
    const int64_t out_step = step * a->channels * size, x_step = step * a->x_l * size;
    vf window[MOST_TAPS], w[MOST_TAPS]; /* window[j] goes with tap j */
#pragma GCC unroll 4
    for (int j = 0; j < taps; j++) w[j] = taps_w[j];
#pragma GCC unroll 4
    for (int j = 0; j < taps - 1; j++) window[j + 1] = read_x(a, b, token_of(a, k, from, j), channel, lanes);
    for (int64_t i = 0; i < end - begin; i++, x += x_step, out += out_step) {
#pragma GCC unroll 4
        for (int j = 0; j < taps - 1; j++) window[j] = window[j + 1];
        window[taps - 1] = load_row(x, dtype, lanes);
        vf sum = bias;
#pragma GCC unroll 4
        for (int j = 0; j < taps; j++) sum += w[j] * window[j];
        if (a->silu) sum *= sigmoid_vf(sum);
        store_row(out, dtype, lanes, sum);
    }
}

static void read_taps(const causal_conv1d_args *a, int64_t k, int64_t channel, int lanes, vf *w, vf *bias) {
    load_columns(w, a->weight + (k * a->channels + channel) * a->taps, a->taps, lanes, 1.0f);
    *bias = a->bias ? load_floats(a->bias + k * a->channels + channel, lanes) : splat(0.0f);
}

/* Strips of tokens small enough that all channel blocks of a strip are read while its rows are still in cache. */
EXPORT void vimzoo_causal_conv1d_forward(const causal_conv1d_args *a) {
    const int threads = (int)a->threads;
    const int64_t strip = 32, strips = ceil_div(a->length, strip);
    PARALLEL_FOR(threads)
    for (int64_t task = 0; task < a->batch * strips; task++) {
        const int64_t b = task / strips, begin = task % strips * strip, end = min_of(begin + strip, a->length);
        for (int64_t channel = 0; channel < a->channels; channel += VL) {
            const int lanes = (int)min_of(VL, a->channels - channel);
            for (int64_t k = 0; k < a->directions; k++) {
                vf w[MOST_TAPS], bias;
                read_taps(a, k, channel, lanes, w, &bias);
                if (a->taps == 4)
                    SPECIALISE(a->dtype, lanes,
                               convolve(a, 4, k, b, begin, end, channel, dtype_, lanes_, w, bias));
                else
                    convolve(a, (int)a->taps, k, b, begin, end, channel, (int)a->dtype, lanes, w, bias);
            }
        }
    }
}

static void backward_image(const causal_conv1d_args *a, int64_t group, int64_t b, int64_t k, int64_t channel, int lanes) {
    const int size = item_size(a->dtype);
    vf w[MOST_TAPS], bias, dw[MOST_TAPS] = {{0}}, dbias = {0};
    read_taps(a, k, channel, lanes, w, &bias);
    for (int64_t l = 0; l < a->length; l++) {
        vf x[MOST_TAPS], sum = bias;
        for (int j = 0; j < a->taps; j++) {
            x[j] = read_x(a, b, token_of(a, k, l, j), channel, lanes);
            sum += w[j] * x[j];
        }
        vf g = load_row(a->dy + (b * a->dy_b + l * a->dy_l + k * a->dy_k + channel) * size, a->dtype, lanes);
        if (a->silu) {
            const vf s = sigmoid_vf(sum);
            g *= s * (1.0f + sum * (1.0f - s));
        }
        dbias += g;
        for (int j = 0; j < a->taps; j++) {
            const int64_t token = token_of(a, k, l, j);
            dw[j] += g * x[j];
            if (token >= 0) add_floats(a->dx + (b * a->length + token) * a->channels + channel, g * w[j], lanes);
        }
    }
    const int64_t at = (group * a->directions + k) * a->channels + channel;
    add_columns(a->dweight + at * a->taps, dw, a->taps, lanes, 1.0f);
    add_floats(a->dbias + at, dbias, lanes);
}

EXPORT void vimzoo_causal_conv1d_backward(const causal_conv1d_args *a) {
    const int threads = (int)a->threads;
    const int64_t blocks = ceil_div(a->channels, VL);
    PARALLEL_FOR(threads)
    for (int64_t task = 0; task < a->batch_groups * blocks; task++) {
        const int64_t group = task / blocks, channel = task % blocks * VL;
        const int lanes = (int)min_of(VL, a->channels - channel);
        for (int64_t b = a->batch * group / a->batch_groups; b < a->batch * (group + 1) / a->batch_groups; b++)
            for (int64_t k = 0; k < a->directions; k++) backward_image(a, group, b, k, channel, lanes);
    }
}
