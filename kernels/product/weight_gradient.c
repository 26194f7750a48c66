/* The gradient of a product's weight in float32: grad^T x, a sum over the rows of both.
 *
 * Rows are taken a piece at a time. Of grad, the columns that share a block are packed; of x, PANEL columns are copied into
 * the first-level cache, where they meet all of those blocks. Sums stay in scratch memory until the last piece.
 */
#include "block.h"

ARGUMENTS(weight_gradient, WEIGHT_GRADIENT_FIELDS);

#if VL >= 8
BLOCKS(PACKED, 0, 1)

/* Of a task: rows of the result, how many sums stay in the second-level cache, and how many rows repay copying x. */
enum { TALL = 768, SUMS_KEPT = 256 << 10, LEAST_TALL = 192 };

/* What a task adds up: rows [first, first + tall) and columns [begin, begin + wide) of the result. */
typedef struct {
    const weight_gradient_args *a;
    int64_t first, tall, begin, wide;
} part;

/* Rows of grad -> left[block][row][column of the block], where the last block overlaps the one before it; row by row, as
 * memory is read fastest. */
INLINE void pack_rows(const part *p, const float *grad, int64_t rows, float *left, const int height) {
    const int64_t blocks = ceil_div(p->tall, height);
    for (int64_t r = 0; r < rows; r++, grad += p->a->grad_row)
        for (int64_t block = 0; block < blocks; block++) {
            const float *from = grad + min_of(block * height, p->tall - height);
            store_row((char *)(left + (block * rows + r) * height), F32, height, load_floats(from, height));
        }
}

/* `rows` rows of up to two vectors of columns of x -> panel[row][column]. */
INLINE void copy_panel(const part *p, const float *x, int64_t rows, const int vectors, const int last, vf *panel) {
    for (int64_t r = 0; r < rows; r++, x += p->a->x_row)
        for (int j = 0; j < vectors; j++) panel[r * vectors + j] = load_floats(x + j * VL, j + 1 < vectors ? VL : last);
}

/* The sums of a block, rows from `first` and columns from `column` of the part on, become output. */
static void write_block(const part *p, vf (*sums)[2], int64_t first, int64_t height, int64_t column) {
    for (int64_t i = 0; i < height; i++)
        for (int64_t c = column; c < min_of(column + PANEL, p->wide); c += VL) {
            float *out = p->a->out + (p->first + first + i) * p->a->inputs + p->begin + c;
            store_row((char *)out, F32, (int)min_of(VL, p->wide - c), sums[i][(c - column) / VL]);
        }
}

static void add_part(const part *p) {
    const weight_gradient_args *a = p->a;
    const int64_t height = block_height(p->tall), blocks = ceil_div(p->tall, height), panels = ceil_div(p->wide, PANEL);
    const int64_t pieces = ceil_div(a->rows, PIECE);
    arena scratch = arena_new((blocks * height * PIECE + PIECE * PANEL + panels * blocks * HIGH * PANEL) * sizeof(float) + 256);
    if (!scratch.base) return;
    float *left = arena_take(&scratch, blocks * height * PIECE * sizeof(float));
    vf *panel = arena_take(&scratch, PIECE * PANEL * sizeof(float));
    vf (*sums)[HIGH][2] = arena_take(&scratch, panels * blocks * sizeof *sums);
    lines_ahead none = {0};
    for (int64_t piece = 0; piece < pieces; piece++) {
        const int64_t row = a->rows * piece / pieces, end = a->rows * (piece + 1) / pieces, rows = end - row;
        const float *grad = a->grad + row * a->grad_row + p->first, *x = a->x + row * a->x_row + p->begin;
        if (height == HIGH) pack_rows(p, grad, rows, left, HIGH);
        else if (height == LOW) pack_rows(p, grad, rows, left, LOW);
        else pack_rows(p, grad, rows, left, 1);
        for (int64_t column = 0; column < p->wide; column += PANEL) {
            const int lanes = (int)min_of(PANEL, p->wide - column), vectors = lanes > VL ? 2 : 1;
            if (lanes == PANEL) copy_panel(p, x + column, rows, 2, VL, panel);
            else copy_panel(p, x + column, rows, vectors, lanes - (vectors - 1) * VL, panel);
            for (int64_t block = 0; block < blocks; block++) {
                vf (*sum)[2] = sums[column / PANEL * blocks + block];
                if (!row) memset(sum, 0, sizeof *sums);
                const words columns = {.first = (const char *)(left + block * height * rows)};
                BLOCK_OF(PACKED, height, vectors)(sum, panel, columns, rows, &none);
                if (end == a->rows) write_block(p, sum, min_of(block * height, p->tall - height), height, column);
            }
        }
        if (!a->bias || p->begin) continue;
        for (int64_t r = 0; r < rows; r++)
            EACH_VECTOR(p->tall, {
                float *bias = a->bias + p->first + c;
                store_row((char *)bias, F32, lanes, load_floats(row + r ? bias : NULL, lanes) +
                                                        load_floats(grad + r * a->grad_row + c, lanes));
            });
    }
    free(scratch.base);
}

/* How the result is cut into tasks. */
typedef struct {
    const weight_gradient_args *a;
    int64_t downward, across;
} cut;

static void add_tasks(const void *context, int64_t begin, int64_t end) {
    const cut *c = context;
    const weight_gradient_args *a = c->a;
    const int64_t panels = ceil_div(a->inputs, PANEL);
    for (int64_t task = begin; task < end; task++) {
        const int64_t i = task / c->across, j = task % c->across, first = a->outputs * i / c->downward;
        const int64_t left = panels * j / c->across * PANEL, right = min_of(a->inputs, panels * (j + 1) / c->across * PANEL);
        const part p = {a, first, a->outputs * (i + 1) / c->downward - first, left, right - left};
        add_part(&p);
    }
}

EXPORT int vimzoo_weight_gradient_forward(const weight_gradient_args *a) {
    const int64_t tall = max_of(LEAST_TALL, min_of(TALL, SUMS_KEPT / a->inputs));
    cut c = {.a = a, .downward = ceil_div(a->outputs, tall)};
    if (c.downward < a->threads) c.downward = max_of(c.downward, min_of(a->threads, a->outputs / LEAST_TALL));
    c.across = min_of(ceil_div(a->inputs, PANEL), ceil_div(a->threads, c.downward));
    vimzoo_parallel(a->threads, c.downward * c.across, add_tasks, &c);
    return memory_short;
}
#else
EXPORT int vimzoo_weight_gradient_forward(const weight_gradient_args *a) { return (void)a, 0; }
#endif
