/* Gradients of the weight and the bias of a depthwise convolution. That of its input is such a convolution itself, with the
 * taps in reverse order.
 */
#include "../selective_scan/task.h"

ARGUMENTS(depthwise_gradient, DEPTHWISE_GRADIENT_FIELDS);

/* Three taps of one row of x: sums[i] += grad(column) x(column + (i - 1) dilation); and sums[3] += grad. */
INLINE void add_row(const depthwise_gradient_args *a, const char *x, const char *grad, vf *sums, const int lanes, const int dtype) {
    const int64_t step = a->x_w * item_size(dtype), pixel = a->channels * item_size(dtype);
    vf left = sums[0], here = sums[1], right = sums[2], all = sums[3];
    for (int64_t column = 0; column < a->width; column++) {
        const char *at = x + column * step;
        const vf g = load_row(grad + column * pixel, dtype, lanes);
        here += g * load_row(at, dtype, lanes);
        if (column >= a->dilation) left += g * load_row(at - a->dilation * step, dtype, lanes);
        if (column + a->dilation < a->width) right += g * load_row(at + a->dilation * step, dtype, lanes);
        all += g;
    }
    sums[0] = left, sums[1] = here, sums[2] = right, sums[3] = all;
}

/* Channels c to c + lanes of the row y; sums: three taps and the sum of grad, for each of three rows of x. */
INLINE void add_block(const depthwise_gradient_args *a, int64_t b, int64_t y, int64_t c, vf (*sums)[4], const int lanes,
                      const int dtype) {
    const int size = item_size(dtype);
    const char *grad = a->grad + ((b * a->height + y) * a->width * a->channels + c) * size;
    for (int i = 0; i < 3; i++) {
        const int64_t row = y + (i - 1) * a->dilation;
        if (row < 0 || row >= a->height) continue;
        add_row(a, a->x + (b * a->x_b + row * a->x_h + c) * size, grad, sums[i], lanes, dtype);
    }
}

INLINE void add_channels(const depthwise_gradient_args *a, int64_t b, int64_t y, vf (*sums)[3][4], const int dtype) {
    EACH_VECTOR(a->channels, add_block(a, b, y, c, sums[c / VL], lanes, dtype));
}

static void add_group(const depthwise_gradient_args *a, int64_t group) {
    const int64_t blocks = ceil_div(a->channels, VL), rows = a->batch * a->height;
    arena scratch = arena_new(blocks * sizeof(vf[3][4]));
    if (!scratch.base) return;
    vf (*sums)[3][4] = memset(scratch.base, 0, blocks * sizeof *sums);
    for (int64_t row = rows * group / a->row_groups; row < rows * (group + 1) / a->row_groups; row++) {
        const int64_t b = row / a->height, y = row % a->height;
        if (a->dtype == F32) add_channels(a, b, y, sums, F32);
        else if (a->dtype == BF16) add_channels(a, b, y, sums, BF16);
        else add_channels(a, b, y, sums, F16);
    }
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t at = group * a->channels + block * VL;
        const int lanes = (int)min_of(VL, a->channels - block * VL);
        vf taps[9];
        for (int i = 0; i < 9; i++) taps[i] = sums[block][i / 3][i % 3];
        add_columns(a->dweight + at * 9, taps, 9, lanes, 1.0f);
        add_floats(a->dbias + at, sums[block][1][3], lanes); /* of the row itself, which is always there */
    }
    free(scratch.base);
}

static void add_groups(const void *arguments, int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; group++) add_group(arguments, group);
}

/* Groups of rows are summed apart, so that gradients do not depend on the number of threads. */
EXPORT int vimzoo_depthwise_gradient_forward(const depthwise_gradient_args *a) {
    vimzoo_parallel(a->threads, a->row_groups, add_groups, a);
    return memory_short;
}
