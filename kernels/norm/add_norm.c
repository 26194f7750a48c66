/* stream = x + residual and its RMSNorm or LayerNorm over the last axis, in one pass over the rows. */
#include <math.h>

#include "../selective_scan/task.h"

ARGUMENTS(add_norm, ADD_NORM_FIELDS);

/* `v` with zeros beyond its first `lanes` lanes. */
INLINE vf first_lanes(vf v, const int lanes) {
    if (lanes == VL) return v;
    vi lane;
    for (int i = 0; i < VL; i++) lane[i] = i;
    return select_vf(lane < lanes, v, splat(0.0f));
}

/* Mean and 1 / sqrt(variance + eps) of a row; RMSNorm has mean 0. */
INLINE void statistics(const add_norm_args *a, const float *row, float *mean, float *scale) {
    vf sum = {0}, squares = {0};
    *mean = 0.0f;
    if (!a->rms) {
        EACH_VECTOR(a->channels, sum += load_floats(row + c, lanes));
        *mean = sum_vf(sum) / (float)a->channels;
    }
    EACH_VECTOR(a->channels, {
        const vf v = first_lanes(load_floats(row + c, lanes) - *mean, lanes);
        squares += v * v;
    });
    *scale = (float)(1.0 / sqrt((double)sum_vf(squares) / (double)a->channels + a->eps));
}

INLINE void forward_row(const add_norm_args *a, int64_t row, float *stream, const int x_dtype, const int residual_dtype,
                        const int kept_dtype) {
    const int64_t at = row * a->channels;
    EACH_VECTOR(a->channels, {
        vf v = load_row(a->x + (at + c) * item_size(x_dtype), x_dtype, lanes);
        if (a->residual)
            v += load_row(a->residual + (at + c) * item_size(residual_dtype), residual_dtype, lanes);
        store_row((char *)(stream + c), F32, lanes, v);
        if (a->kept) store_row(a->kept + (at + c) * item_size(kept_dtype), kept_dtype, lanes, v);
    });
    float mean, scale;
    statistics(a, stream, &mean, &scale);
    EACH_VECTOR(a->channels, {
        vf v = (load_floats(stream + c, lanes) - mean) * scale * load_floats(a->weight + c, lanes);
        if (a->bias) v += load_floats(a->bias + c, lanes);
        if (a->gate) {
            const vf gate = load_row(a->gate + (row * a->gate_row + c) * item_size(x_dtype), x_dtype, lanes);
            v *= gate * sigmoid_vf(gate);
        }
        store_row(a->out + (at + c) * item_size(x_dtype), x_dtype, lanes, v);
    });
}

static void forward_rows(const add_norm_args *a, int64_t begin, int64_t end, float *stream) {
    const int wide = a->residual_dtype == F32 && a->kept_dtype == F32;
    if (a->x_dtype == F32 && wide)
        for (int64_t row = begin; row < end; row++) forward_row(a, row, stream, F32, F32, F32);
    else if (a->x_dtype == BF16 && wide)
        for (int64_t row = begin; row < end; row++) forward_row(a, row, stream, BF16, F32, F32);
    else
        for (int64_t row = begin; row < end; row++)
            forward_row(a, row, stream, (int)a->x_dtype, (int)a->residual_dtype, (int)a->kept_dtype);
}

EXPORT void vimzoo_add_norm_forward(const add_norm_args *a) {
    const int threads = a->rows * a->channels < 16384 ? 1 : (int)a->threads;
    const int64_t groups = threads;
    PARALLEL_FOR(threads)
    for (int64_t group = 0; group < groups; group++) {
        arena scratch = arena_new(a->channels * sizeof(float) + 64);
        forward_rows(a, a->rows * group / groups, a->rows * (group + 1) / groups, (float *)scratch.base);
        free(scratch.base);
    }
}

/* With n = (stream - mean) scale and g = dout weight: dstream = scale (g - mean(g) - n mean(g n)) + dkept. */
static void backward_row(const add_norm_args *a, int64_t row, float *stream, float *dweight, float *dbias) {
    const int64_t at = row * a->channels;
    for (int64_t c = 0; c < a->channels; c += VL) {
        const int lanes = (int)min_of(VL, a->channels - c);
        store_row((char *)(stream + c), F32, lanes,
                  load_row(a->kept + (at + c) * item_size(a->kept_dtype), a->kept_dtype, lanes));
    }
    float mean, scale;
    statistics(a, stream, &mean, &scale);
    vf sum_g = {0}, sum_gn = {0};
    for (int64_t c = 0; c < a->channels; c += VL) {
        const int lanes = (int)min_of(VL, a->channels - c);
        const vf dout = load_row(a->dout + (at + c) * item_size(a->x_dtype), a->x_dtype, lanes);
        const vf n = (load_floats(stream + c, lanes) - mean) * scale, g = dout * load_floats(a->weight + c, lanes);
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
        const vf n = (load_floats(stream + c, lanes) - mean) * scale, g = dout * load_floats(a->weight + c, lanes);
        vf d = (g - mean_g - n * mean_gn) * scale;
        if (a->dkept) d += load_row(a->dkept + (at + c) * item_size(a->kept_dtype), a->kept_dtype, lanes);
        store_row(a->dx + (at + c) * item_size(a->x_dtype), a->x_dtype, lanes, d);
        if (a->dresidual)
            store_row(a->dresidual + (at + c) * item_size(a->residual_dtype), a->residual_dtype, lanes, d);
    }
}

EXPORT void vimzoo_add_norm_backward(const add_norm_args *a) {
    const int threads = (int)a->threads;
    PARALLEL_FOR(threads)
    for (int64_t group = 0; group < a->row_groups; group++) {
        arena scratch = arena_new(a->channels * sizeof(float) + 64);
        const int64_t end = a->rows * (group + 1) / a->row_groups;
        for (int64_t row = a->rows * group / a->row_groups; row < end; row++)
            backward_row(a, row, (float *)scratch.base, a->dweight + group * a->channels,
                         a->dbias + group * a->channels);
        free(scratch.base);
    }
}
