/* Depthwise 3 x 3 convolution of maps with channels last, stride 1, zeros beyond the edge, dilated or not, and SiLU.
 *
 * A column of three pixels is read once and added to the three outputs that it belongs to, which stay in registers. With a
 * dilation d, every d-th column is a row of its own.
 */
#include "../selective_scan/task.h"

ARGUMENTS(depthwise, DEPTHWISE_FIELDS);

/* One output row of VL channels, and of the columns from `first` on that are `dilation` apart; `rows` are the map's rows above,
 * at and below it, `steps` bytes from pixel to pixel. */
INLINE void filter_row(const depthwise_args *a, int64_t first, const char *const *rows, const int64_t *steps, char *out,
                       const vf *taps, vf bias, const int lanes, const int dtype) {
    const int64_t pixel = a->channels * item_size(dtype), width = ceil_div(a->width - first, a->dilation);
    const int64_t below = a->x_h * item_size(dtype);
    vf w[9], left = bias, here = bias; /* sums of the outputs left of the column that is read, and at it */
#pragma GCC unroll 9
    for (int i = 0; i < 9; i++) w[i] = taps[i];
    for (int64_t column = 0; column <= width; column++) {
        const int64_t at = first + column * a->dilation;
        vf right = bias;
        if (column < width)
#pragma GCC unroll 3
            for (int i = 0; i < 3; i++) {
                const vf v = load_row(rows[i] + at * steps[i], dtype, lanes);
                if (i == 2) ask_for(rows[i] + at * steps[i] + below); /* not foreseen: one line of each pixel */
                left += v * w[3 * i + 2];
                here += v * w[3 * i + 1];
                right += v * w[3 * i];
            }
        if (column) {
            if (a->silu) left *= sigmoid_vf(left);
            store_row(out + (at - a->dilation) * pixel, dtype, lanes, left);
        }
        left = here;
        here = right;
    }
}

/* Channels c to c + lanes of one output row. */
INLINE void filter_block(const depthwise_args *a, int64_t b, int64_t y, int64_t c, const vf *taps, const int lanes,
                         const int dtype) {
    static const float zeros[VL];
    const int size = item_size(dtype);
    const char *rows[3];
    int64_t steps[3];
    for (int i = 0; i < 3; i++) {
        const int64_t row = y + (i - 1) * a->dilation;
        const int inside = row >= 0 && row < a->height;
        rows[i] = inside ? a->x + (b * a->x_b + row * a->x_h + c) * size : (const char *)zeros;
        steps[i] = inside ? a->x_w * size : 0;
    }
    char *out = a->out + ((b * a->height + y) * a->width * a->channels + c) * size;
    const vf bias = load_floats(a->bias ? a->bias + c : NULL, lanes);
    for (int64_t first = 0; first < min_of(a->dilation, a->width); first++)
        filter_row(a, first, rows, steps, out, taps + c / VL * 9, bias, lanes, dtype);
}

INLINE void filter_channels(const depthwise_args *a, int64_t b, int64_t y, const vf *taps, const int dtype) {
    EACH_VECTOR(a->channels, filter_block(a, b, y, c, taps, lanes, dtype));
}

typedef struct {
    const depthwise_args *a;
    vf *taps;
} filter;

static void filter_rows(const void *context, int64_t begin, int64_t end) {
    const depthwise_args *a = ((const filter *)context)->a;
    const vf *taps = ((const filter *)context)->taps;
    for (int64_t row = begin; row < end; row++) {
        const int64_t b = row / a->height, y = row % a->height;
        if (a->dtype == F32) filter_channels(a, b, y, taps, F32);
        else if (a->dtype == BF16) filter_channels(a, b, y, taps, BF16);
        else filter_channels(a, b, y, taps, F16);
    }
}

EXPORT int vimzoo_depthwise_forward(const depthwise_args *a) {
    const int64_t blocks = ceil_div(a->channels, VL);
    arena scratch = arena_new(blocks * 9 * sizeof(vf));
    if (!scratch.base) return memory_short;
    const filter f = {.a = a, .taps = arena_take(&scratch, blocks * 9 * sizeof(vf))};
    for (int64_t i = 0; i < blocks; i++)
        load_columns(f.taps + i * 9, a->weight + i * VL * 9, 9, (int)min_of(VL, a->channels - i * VL), 1.0f);
    vimzoo_parallel(a->threads, a->batch * a->height, filter_rows, &f);
    free(scratch.base);
    return memory_short;
}
