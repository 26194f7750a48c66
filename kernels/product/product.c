/* Matrix products y = x W^T on AVX2 and AVX-512, with bias, GELU and a residual before the result leaves the registers.
 *
 * A panel of W, PANEL output columns times PIECE words, is transposed into the first-level cache at each call and meets
 * all rows of x. A word is a float32, or two bfloat16 where the processor multiplies them in pairs; elsewhere numbers of
 * 16 bits become float32 when W is transposed, and x before. Nothing is kept between calls: transposing costs what
 * comparing the weight with an earlier one would cost.
 */
#include "block.h"
#include "product.h"

ARGUMENT_NAMES(product, PRODUCT_FIELDS);

/* Whether products of this dtype run here; those of 16 bits need an even depth, as a word may be two numbers. */
EXPORT int vimzoo_product_takes(int dtype) { return VL >= 8 && dtype >= F32 && dtype <= F16; }

#if VL >= 8
/* Of a chunk of x: enough rows to pay for transposing the weight; what stays in the second-level cache. */
enum { FEWEST_ROWS = 96, WORDS_OF_ROWS = (VL == 16 ? 160 : 80) << 10 };

/* A transposed weight of at most so many bytes is kept for all rows, of which so many blocks meet a panel at a time; and how
 * many blocks before a panel ends the next one is asked for, so that its lines are still near. On AVX-512 neither gains anything. */
enum { KEPT_BYTES = VL == 16 ? 0 : 256 << 10, KEPT_BLOCKS = 4, EARLY = VL == 16 ? 1 << 30 : 4 };

/* The part of a weight that is multiplied at a time. */
typedef struct {
    int64_t column, begin, end; /* first output column, first and last + 1 word */
    int vectors;                /* of output columns */
} piece;

INLINE int64_t words_deep(const product_args *a) { return a->dtype == PAIRED ? a->depth / 2 : a->depth; }
INLINE int word_size(const product_args *a) { return a->dtype == PAIRED ? 4 : item_size((int)a->dtype); }
static int64_t pieces_deep(const product_args *a) { return ceil_div(words_deep(a), PIECE); }

static piece piece_at(const product_args *a, int64_t panel, int64_t deep) {
    const int64_t words = words_deep(a), pieces = pieces_deep(a);
    return (piece){.column = panel * PANEL, .begin = words * deep / pieces, .end = words * (deep + 1) / pieces,
                   .vectors = a->columns - panel * PANEL > VL ? 2 : 1};
}

/* Word `w` of output column `n`. */
INLINE const char *weight_at(const product_args *a, int64_t n, int64_t w) {
    return a->weight + (n * words_deep(a) + w) * word_size(a);
}

/* panel[word][column], zeros beyond the last column. */
static void transpose_piece(const product_args *a, const piece *p, vf *panel) {
    const int64_t step = words_deep(a) * word_size(a);
    const int dtype = a->dtype == PAIRED ? F32 : (int)a->dtype;
    for (int j = 0; j < p->vectors; j++)
        for (int64_t w = p->begin; w < p->end; w += VL) {
            const char *from = weight_at(a, p->column + j * VL, w);
            const int rows = (int)min_of(VL, a->columns - p->column - j * VL), width = (int)min_of(VL, p->end - w);
            vf *out = panel + (w - p->begin) * p->vectors + j;
            if (rows == VL && width == VL && dtype == F32) transpose_words(from, step, F32, VL, VL, out, p->vectors);
            else transpose_words(from, step, dtype, rows, width, out, p->vectors);
        }
}

/* The output of one vector of sums. */
INLINE void finish(const product_args *a, vf sum, vf bias, int64_t row, int64_t column, const int lanes, const int dtype) {
    vf v = sum * (float)a->scale + bias;
    if (a->gelu) v = gelu_vf(v, dtype != F32);
    if (a->add) v += load_row(a->add + (row * a->add_row + column) * item_size(dtype), dtype, lanes);
    store_row(a->out + (row * a->out_row + column) * item_size(dtype), dtype, lanes, v);
}
INLINE vf bias_at(const product_args *a, int64_t column, const int lanes, const int dtype) {
    return a->bias ? load_row(a->bias + column * item_size(dtype), dtype, lanes) : splat(0.0f);
}

/* What is done with rows [row, row + rows) of a panel, `x` from the first of them on: the sums so far in `partial`, which
 * the last piece turns into output. */
#if VL == 16
INLINE void multiply(const product_args *a, const piece *p, const vf *panel, words x, int64_t row, vf (*partial)[2],
                     lines_ahead *ahead, const int rows, const int vectors, const int dtype) {
    vf sum[HIGH][2];
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) sum[i][j] = p->begin ? partial[i][j] : splat(0.0f);
    add_products(sum, panel, x, p->end - p->begin, ahead, rows, vectors, dtype == PAIRED, 0);
    const int last = p->end == words_deep(a);
#pragma GCC unroll 2
    for (int j = 0; j < vectors; j++) {
        const int64_t n = p->column + j * VL;
        const int lanes = (int)min_of(VL, a->columns - n);
        const vf bias = last ? bias_at(a, n, lanes, dtype) : splat(0.0f);
#pragma GCC unroll 12
        for (int i = 0; i < rows; i++) {
            if (last) finish(a, sum[i][j], bias, row + i, n, lanes, dtype);
            else partial[i][j] = sum[i][j];
        }
    }
}
#else
BLOCKS(ROWS, 0, 0)

static void multiply(const product_args *a, const piece *p, const vf *panel, words x, int64_t row, vf (*partial)[2],
                     lines_ahead *ahead, int rows, int vectors, const int dtype) {
    if (!p->begin) memset(partial, 0, rows * sizeof *partial);
    if (p->end == words_deep(a))
        for (int i = 0; i < rows; i++) {
            const int64_t at = p->column * item_size(dtype);
            __builtin_prefetch(a->out + (row + i) * a->out_row * item_size(dtype) + at, 1, 3);
            if (a->add) __builtin_prefetch(a->add + (row + i) * a->add_row * item_size(dtype) + at, 0, 3);
        }
    BLOCK_OF(ROWS, rows, vectors)(partial, panel, x, p->end - p->begin, ahead);
    if (p->end < words_deep(a)) return;
    const product_args own = *a; /* which no store changes, as the compiler sees */
    a = &own;
    for (int j = 0; j < vectors; j++) {
        const int64_t n = p->column + j * VL;
        if (n + VL <= a->columns) {
            const vf bias = bias_at(a, n, VL, dtype);
            for (int i = 0; i < rows; i++) finish(a, partial[i][j], bias, row + i, n, VL, dtype);
        } else {
            const int lanes = (int)(a->columns - n);
            const vf bias = bias_at(a, n, lanes, dtype);
            for (int i = 0; i < rows; i++) finish(a, partial[i][j], bias, row + i, n, lanes, dtype);
        }
    }
}
#endif

/* `rows` rows of x from `row` on, as they are or widened. */
static words rows_of(const product_args *a, int64_t row, int64_t rows, arena *scratch) {
    const int size = item_size((int)a->dtype);
    const char *x = a->x + row * a->x_row * size;
    if (a->dtype == F32 || a->dtype == PAIRED) return (words){x, a->x_row * size};
    float *wide = arena_take(scratch, rows * a->depth * sizeof(float));
    for (int64_t i = 0; i < rows; i++)
        EACH_VECTOR(a->depth, {
            store_row((char *)(wide + i * a->depth + c), F32, lanes, load_row(x + (i * a->x_row + c) * size, (int)a->dtype, lanes));
        });
    return (words){(const char *)wide, a->depth * (int64_t)sizeof(float)};
}

/* All panels [first, last) for `rows` rows from `row` on. */
static void multiply_rows(const product_args *a, int64_t row, int64_t rows, int64_t first, int64_t last) {
    const int64_t deep = pieces_deep(a), height = block_height(rows);
    const int64_t blocks = ceil_div(rows, height), pieces = (last - first) * deep;
    const int64_t kept = pieces * PIECE * PANEL * (int64_t)sizeof(float) <= KEPT_BYTES && blocks > 2 * KEPT_BLOCKS;
    const int64_t together = kept ? KEPT_BLOCKS : blocks;
    const int64_t widened = a->dtype == F32 || a->dtype == PAIRED ? 0 : rows * a->depth;
    arena scratch = arena_new(((kept ? pieces : 1) * PIECE * PANEL + blocks * height * PANEL + widened) * sizeof(float) + 64);
    if (!scratch.base) return;
    vf *panels = arena_take(&scratch, (kept ? pieces : 1) * PIECE * PANEL * sizeof(float));
    vf (*partial)[2] = arena_take(&scratch, blocks * height * sizeof *partial);
    const words x = rows_of(a, row, rows, &scratch);
    for (int64_t work = 0; work < ceil_div(blocks, together) * pieces; work++) {
        const int64_t begin = work / pieces * together, end = min_of(blocks, begin + together), i = first * deep + work % pieces;
        const piece p = piece_at(a, i / deep, i % deep), next = piece_at(a, (i + 1) / deep, (i + 1) % deep);
        const uint64_t lines = PANEL * ceil_div((next.end - next.begin) * word_size(a), 64);
        lines_ahead ahead = {.first = weight_at(a, next.column, next.begin), .step = words_deep(a) * word_size(a)};
        vf *panel = panels + (kept ? work % pieces * PIECE * 2 : 0);
        if (begin == 0) transpose_piece(a, &p, panel);
        for (int64_t block = begin; block < end; block++) {
            if (begin == 0 && i + 1 < last * deep && block + EARLY >= end) ahead.lines = lines;
            const int64_t r = min_of(block * height, rows - height);
            const words some = {x.first + r * x.step + p.begin * 4, x.step};
#define MULTIPLY(rows_, vectors_, dtype_) multiply(a, &p, panel, some, row + r, partial + block * height, &ahead, rows_, vectors_, dtype_)
#if VL == 16
#define EACH_HEIGHT(vectors_, dtype_)                            \
    do {                                                         \
        if (height == HIGH) MULTIPLY(HIGH, vectors_, dtype_);    \
        else if (height == LOW) MULTIPLY(LOW, vectors_, dtype_); \
        else MULTIPLY(1, vectors_, dtype_);                      \
    } while (0)
#define EACH_SHAPE(dtype_)                            \
    do {                                              \
        if (p.vectors == 2) EACH_HEIGHT(2, dtype_);   \
        else EACH_HEIGHT(1, dtype_);                  \
    } while (0)
#else
#define EACH_SHAPE(dtype_) MULTIPLY((int)height, p.vectors, dtype_)
#endif
            if (a->dtype == F32) EACH_SHAPE(F32);
            else if (a->dtype == BF16) EACH_SHAPE(BF16);
            else EACH_SHAPE(F16);
        }
    }
    free(scratch.base);
}

/* How a product is cut into tasks: rows into chunks, and the panels into parts. */
typedef struct {
    const product_args *a;
    int64_t chunks, parts;
} cut;

static void multiply_tasks(const void *context, int64_t begin, int64_t end) {
    const cut *c = context;
    const product_args *a = c->a;
    const int64_t panels = ceil_div(a->columns, PANEL);
    for (int64_t task = begin; task < end; task++) {
        const int64_t chunk = task / c->parts, part = task % c->parts, row = a->rows * chunk / c->chunks;
        multiply_rows(a, row, a->rows * (chunk + 1) / c->chunks - row, panels * part / c->parts,
                      panels * (part + 1) / c->parts);
    }
}

int vimzoo_product_forward(const product_args *a) {
    const int64_t panels = ceil_div(a->columns, PANEL), words = a->rows * words_deep(a), most = max_of(1, a->rows / FEWEST_ROWS);
    cut c = {.a = a, .chunks = min_of(most, max_of(words / WORDS_OF_ROWS, panels >= 4 * a->threads ? 1 : a->threads))};
    c.parts = min_of(panels, ceil_div(a->threads, c.chunks));
    vimzoo_parallel(a->threads, c.chunks * c.parts, multiply_tasks, &c);
    return memory_short;
}
#else
int vimzoo_product_forward(const product_args *a) { return (void)a, 0; }
#endif
