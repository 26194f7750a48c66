/* Two products with GELU between them, some rows at a time, so that most of the hidden layer stays in the second-level cache.
 * Weights are transposed for each group of rows: with few rows that costs more than reaching into the third level. */
#include "product.h"

ARGUMENTS(mlp, MLP_FIELDS);

enum { HIDDEN_BYTES = 1 << 20, FEWEST_ROWS = 256 };

static void some_rows(const mlp_args *a, int64_t row, int64_t rows, int threads) {
    const int size = item_size(a->dtype);
    arena scratch = arena_new(rows * a->hidden * size);
    if (!scratch.base) return;
    const product_args first = {.rows = rows, .depth = a->depth, .columns = a->hidden, .dtype = a->dtype, .gelu = 1,
                                .threads = threads, .x = a->x + row * a->depth * size, .x_row = a->depth,
                                .weight = a->weight1, .bias = a->bias1, .scale = 1.0, .out = scratch.base,
                                .out_row = a->hidden};
    const int64_t at = row * a->columns * size;
    const product_args second = {.rows = rows, .depth = a->hidden, .columns = a->columns, .dtype = a->dtype,
                                 .threads = threads, .x = scratch.base, .x_row = a->hidden, .weight = a->weight2,
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
