/* stream = x + residual and its RMSNorm or LayerNorm over the last axis, in one pass over the rows. */
#include <math.h>

#include "add_norm.h"

ARGUMENT_NAMES(add_norm, ADD_NORM_FIELDS);

enum { AT_ONCE = 4 }; /* rows */
#define EACH_ROW _Pragma("GCC unroll 4") for (int i = 0; i < rows; i++)

/* `v` with zeros beyond its first `lanes` lanes. */
INLINE vf first_lanes(vf v, const int lanes) {
    if (lanes == VL) return v;
    vi lane;
    for (int i = 0; i < VL; i++) lane[i] = i;
    return select_vf(lane < lanes, v, splat(0.0f));
}

/* Mean and 1 / sqrt(variance + eps) of `rows` rows of whole vectors, zeros beyond the last channel, with these sums over
 * vectors; RMSNorm has mean 0. Rows are treated side by side, as each one's sums wait for one another. */
INLINE void statistics(const add_norm_args *a, const vf *row, const vf *sum, const int rows, float *mean, float *scale) {
    const double share = 1.0 / (double)a->channels;
    vf squares[AT_ONCE] = {0};
    double variance[AT_ONCE];
    EACH_ROW mean[i] = a->rms ? 0.0f : sum_vf(sum[i]) * (float)share;
    EACH_VECTOR(a->channels, EACH_ROW {
        const vf v = first_lanes(row[c / VL * rows + i] - mean[i], lanes);
        squares[i] += v * v;
    });
    EACH_ROW variance[i] = (double)sum_vf(squares[i]) * share + a->eps;
    EACH_ROW scale[i] = (float)(1.0 / sqrt(variance[i]));
}

/* Rows from `row` on; stream: room for them. */
INLINE void forward_some(const add_norm_args *a, int64_t row, const int rows, vf *stream, const int x_dtype,
                         const int residual_dtype, const int kept_dtype) {
    const add_norm_args own = *a; /* which no store changes, as the compiler sees */
    a = &own;
    vf sum[AT_ONCE] = {0};
    EACH_VECTOR(a->channels, EACH_ROW {
        const int64_t at = (row + i) * a->channels + c;
        vf v = load_row(a->x + at * item_size(x_dtype), x_dtype, lanes);
        if (a->residual) v += load_row(a->residual + at * item_size(residual_dtype), residual_dtype, lanes);
        stream[c / VL * rows + i] = v;
        sum[i] += v;
        if (a->kept) store_row(a->kept + at * item_size(kept_dtype), kept_dtype, lanes, v);
    });
    float mean[AT_ONCE], scale[AT_ONCE];
    statistics(a, stream, sum, rows, mean, scale);
    EACH_VECTOR(a->channels, {
        const vf weight = load_floats(a->weight + c, lanes);
        const vf bias = load_floats(a->bias ? a->bias + c : NULL, lanes);
        EACH_ROW {
            vf v = (stream[c / VL * rows + i] - mean[i]) * scale[i] * weight + bias;
            if (a->gate) {
                const vf gate = load_row(a->gate + ((row + i) * a->gate_row + c) * item_size(x_dtype), x_dtype, lanes);
                v *= gate * sigmoid_vf(gate);
            }
            if (a->gelu) v = gelu_vf(v, x_dtype != F32);
            store_row(a->out + ((row + i) * a->channels + c) * item_size(x_dtype), x_dtype, lanes, v);
        }
    });
}

INLINE void forward_part(const add_norm_args *a, int64_t begin, int64_t end, vf *stream, const int x_dtype,
                         const int residual_dtype, const int kept_dtype) {
    for (; begin + AT_ONCE <= end; begin += AT_ONCE)
        forward_some(a, begin, AT_ONCE, stream, x_dtype, residual_dtype, kept_dtype);
    for (; begin < end; begin++) forward_some(a, begin, 1, stream, x_dtype, residual_dtype, kept_dtype);
}

static void forward_rows(const add_norm_args *a, int64_t begin, int64_t end, vf *stream) {
    const int wide = a->residual_dtype == F32 && a->kept_dtype == F32;
    if (a->x_dtype == F32 && wide) forward_part(a, begin, end, stream, F32, F32, F32);
    else if (a->x_dtype == BF16 && wide) forward_part(a, begin, end, stream, BF16, F32, F32);
    else forward_part(a, begin, end, stream, (int)a->x_dtype, (int)a->residual_dtype, (int)a->kept_dtype);
}

static void forward_tasks(const void *arguments, int64_t begin, int64_t end) {
    const add_norm_args *a = arguments;
    arena scratch = arena_new(AT_ONCE * ceil_div(a->channels, VL) * sizeof(vf));
    if (!scratch.base) return;
    forward_rows(a, begin, end, (vf *)scratch.base);
    free(scratch.base);
}
int vimzoo_add_norm_forward(const add_norm_args *a) {
    vimzoo_parallel(a->rows * a->channels < 16384 ? 1 : a->threads, a->rows, forward_tasks, a);
    return memory_short;
}

/* With n = (stream - mean) scale and g = dout weight: dstream = scale (g - mean(g) - n mean(g n)) + dkept. */
static void backward_row(const add_norm_args *a, int64_t row, vf *stream, float *dweight, float *dbias) {
    const int64_t at = row * a->channels;
    vf sum = {0};
    EACH_VECTOR(a->channels, {
        sum += stream[c / VL] = load_row(a->kept + (at + c) * item_size(a->kept_dtype), a->kept_dtype, lanes);
    });
    float mean, scale;
    statistics(a, stream, &sum, 1, &mean, &scale);
    vf sum_g = {0}, sum_gn = {0};
    for (int64_t c = 0; c < a->channels; c += VL) {
        const int lanes = (int)min_of(VL, a->channels - c);
        const vf dout = load_row(a->dout + (at + c) * item_size(a->x_dtype), a->x_dtype, lanes);
        const vf n = (stream[c / VL] - mean) * scale, g = dout * load_floats(a->weight + c, lanes);
        add_floats(dweight + c, dout * n, lanes);
        add_floats(dbias + c, dout, lanes);
        sum_g += g;
        sum_gn += g * n; /* g is zero beyond the last lane */
    }
    const float mean_g = a->rms ? 0.0f : sum_vf(sum_g) / (float)a->channels;
    const float mean_gn = sum_vf(sum_gn) / (float)a->channels;
    for (int64_t c = 0; c < a->channels; c += VL) {
        const int lanes = (int)min_of(VL, a->channels - c);
        const vf dout = load_row(a->dout + (at + c) * item_size(a->x_dtype), a->x_dtype, lanes);
        const vf n = (stream[c / VL] - mean) * scale, g = dout * load_floats(a->weight + c, lanes);
        vf d = (g - mean_g - n * mean_gn) * scale;
        if (a->dkept) d += load_row(a->dkept + (at + c) * item_size(a->kept_dtype), a->kept_dtype, lanes);
        store_row(a->dx + (at + c) * item_size(a->x_dtype), a->x_dtype, lanes, d);
        if (a->dresidual)
            store_row(a->dresidual + (at + c) * item_size(a->residual_dtype), a->residual_dtype, lanes, d);
    }
}

static void backward_tasks(const void *arguments, int64_t first, int64_t last) {
    const add_norm_args *a = arguments;
    for (int64_t group = first; group < last; group++) {
        arena scratch = arena_new(ceil_div(a->channels, VL) * sizeof(vf));
        if (!scratch.base) return;
        const int64_t end = a->rows * (group + 1) / a->row_groups;
        for (int64_t row = a->rows * group / a->row_groups; row < end; row++)
            backward_row(a, row, (vf *)scratch.base, a->dweight + group * a->channels,
                         a->dbias + group * a->channels);
        free(scratch.base);
    }
}
EXPORT int vimzoo_add_norm_backward(const add_norm_args *a) {
    vimzoo_parallel(a->threads, a->row_groups, backward_tasks, a);
    return memory_short;
}
