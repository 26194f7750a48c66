/* [A norm and] two products with GELU between them, some rows at a time, so that most of the hidden layer stays in the
 * second-level cache. Weights are transposed for each group of rows: with few rows that costs more than reaching into the
 * third level. */
#include "../norm/add_norm.h"
#include "product.h"

ARGUMENTS(mlp, MLP_FIELDS);

enum { HIDDEN_BYTES = 1 << 20, FEWEST_ROWS = 256 };

static void some_rows(const mlp_args *a, int64_t row, int64_t rows, int threads) {
    const int size = item_size(a->dtype);
    const int64_t inputs = a->first_weight ? rows * a->depth : 0;
    arena scratch = arena_new((rows * a->hidden + inputs) * size + 2 * a->depth * sizeof(float) + 256);
    if (!scratch.base) return;
    char *hidden = arena_take(&scratch, rows * a->hidden * size), *normed = arena_take(&scratch, inputs * size);
    const char *x = a->x + row * a->depth * size;
    if (a->first_weight) {
        const add_norm_args norm = {.rows = rows, .channels = a->depth, .rms = a->first_rms, .x_dtype = a->dtype,
                                    .threads = threads, .x = x, .eps = a->first_eps, .out = normed,
                                    .weight = as_floats(&scratch, a->first_weight, a->dtype, a->depth),
                                    .bias = as_floats(&scratch, a->first_bias, a->dtype, a->depth)};
        vimzoo_add_norm_forward(&norm);
        x = normed;
    }
    const product_args first = {.rows = rows, .depth = a->depth, .columns = a->hidden, .dtype = a->dtype, .gelu = 1,
                                .threads = threads, .x = x, .x_row = a->depth,
                                .weight = a->weight1, .bias = a->bias1, .scale = 1.0, .out = hidden,
                                .out_row = a->hidden};
    const int64_t at = row * a->columns * size;
    const product_args second = {.rows = rows, .depth = a->hidden, .columns = a->columns, .dtype = a->dtype,
                                 .threads = threads, .x = hidden, .x_row = a->hidden, .weight = a->weight2,
                                 .bias = a->bias2, .scale = 1.0, .add = a->add ? a->add + at : NULL,
                                 .add_row = a->columns, .out = a->out + at, .out_row = a->columns};
    vimzoo_product_with(&first, a->quantized1);
    vimzoo_product_with(&second, a->quantized2);
    free(scratch.base);
}

typedef struct {
    const mlp_args *a;
    int64_t chunks; /* of the rows */
} cut;

static void chunks_of(const void *context, int64_t begin, int64_t end) {
    const mlp_args *a = ((const cut *)context)->a;
    const int64_t chunks = ((const cut *)context)->chunks;
    for (int64_t i = begin; i < end; i++) {
        const int64_t row = a->rows * i / chunks;
        some_rows(a, row, a->rows * (i + 1) / chunks - row, 1);
    }
}

EXPORT int vimzoo_mlp_forward(const mlp_args *a) {
    const int threads = (int)a->threads;
    const int64_t rows = max_of(FEWEST_ROWS, HIDDEN_BYTES / (a->hidden * item_size(a->dtype)));
    if (a->rows < threads * FEWEST_ROWS || a->rows <= rows) {
        some_rows(a, 0, a->rows, threads);
        return memory_short;
    }
    const cut c = {.a = a, .chunks = ceil_div(ceil_div(a->rows, rows), threads) * threads};
    vimzoo_parallel(threads, c.chunks, chunks_of, &c);
    return memory_short;
}
