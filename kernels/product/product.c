/* Matrix products y = x W^T on AVX-512, with bias, GELU and a residual before the result leaves the registers.
 *
 * A panel of W, PANEL output columns times PIECE words (a word is a float32 or two bfloat16), is transposed into the
 * first-level cache at each call and meets all rows of x, which are read where they lie. Nothing is kept between calls:
 * transposing costs what comparing the weight with an earlier one would cost.
 */
#include "product.h"

ARGUMENT_NAMES(product, PRODUCT_FIELDS);

/* Whether products of this dtype run here; of bfloat16 only with an even depth, as words are read whole. */
EXPORT int vimzoo_product_takes(int dtype) {
#if defined(__AVX512BF16__)
    if (dtype == BF16) return 1;
#endif
    return VL == 16 && dtype == F32;
}

#if VL == 16
enum { PIECE = 192, PANEL = 2 * VL, MOST_ROWS = 12 };
/* Of a chunk of x: enough rows to pay for transposing the weight; what stays in the second-level cache. */
enum { FEWEST_ROWS = 96, WORDS_OF_ROWS = 160 << 10 };

/* The part of a weight that is multiplied at a time. */
typedef struct {
    int64_t column, begin, end; /* first output column, first and last + 1 word */
    int vectors;                /* of output columns */
} piece;

static int64_t pieces_deep(const product_args *a) { return ceil_div(a->depth * item_size(a->dtype) / 4, PIECE); }

static piece piece_at(const product_args *a, int64_t panel, int64_t deep) {
    const int64_t words = a->depth * item_size(a->dtype) / 4, pieces = pieces_deep(a);
    return (piece){.column = panel * PANEL, .begin = words * deep / pieces, .end = words * (deep + 1) / pieces,
                   .vectors = a->columns - panel * PANEL > VL ? 2 : 1};
}

/* Word `w` of output column `n`. */
INLINE const char *weight_at(const product_args *a, int64_t n, int64_t w) {
    return a->weight + n * a->depth * item_size(a->dtype) + w * 4;
}

/* VL rows of `width` words -> `width` vectors of one word of every row; rows from `rows` on are zero. */
INLINE void transpose_words(const char *from, int64_t step, const int rows, const int width, vf *out, int out_step) {
    vf block[VL];
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++) block[i] = i < rows ? load_row(from + i * step, F32, width) : splat(0.0f);
    transpose_vf(block);
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++)
        if (i < width) out[i * out_step] = block[i];
}

/* panel[word][column], zeros beyond the last column. */
static void transpose_piece(const product_args *a, const piece *p, vf *panel) {
    const int64_t step = a->depth * item_size(a->dtype);
    for (int j = 0; j < p->vectors; j++)
        for (int64_t w = p->begin; w < p->end; w += VL) {
            const char *from = weight_at(a, p->column + j * VL, w);
            const int rows = (int)min_of(VL, a->columns - p->column - j * VL), width = (int)min_of(VL, p->end - w);
            vf *out = panel + (w - p->begin) * p->vectors + j;
            if (rows == VL && width == VL) transpose_words(from, step, VL, VL, out, p->vectors);
            else transpose_words(from, step, rows, width, out, p->vectors);
        }
}

/* The cache lines of the next piece of the weight, which are asked for one by one meanwhile: the memory of a processor
 * core answers a few dozen requests at a time. */
typedef struct {
    const char *first;
    int64_t step, asked, lines; /* bytes from row to row; lines so far and in all: the first of every row, then the second */
} lines_ahead;

INLINE void ask(lines_ahead *ahead) {
    if (ahead->asked == ahead->lines) return;
    __builtin_prefetch(ahead->first + ahead->asked % PANEL * ahead->step + ahead->asked / PANEL * 64, 0, 3);
    ahead->asked++;
}

/* What is done with rows [row, row + rows) of a panel: the sums so far in `partial`, which the last piece turns into output. */
INLINE void multiply(const product_args *a, const piece *p, const vf *panel, int64_t row, float *partial, lines_ahead *ahead,
                     const int rows, const int vectors, const int dtype) {
    const int64_t step = a->x_row * item_size(dtype);
    const char *x = a->x + row * step + p->begin * 4, *at[4] = {x, x + 3 * step, x + 6 * step, x + 9 * step};
    vf sum[MOST_ROWS][2];
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++)
            sum[i][j] = p->begin ? *(const vf *)(partial + (i * vectors + j) * VL) : splat(0.0f);
    lines_ahead soon = *ahead;
    for (int64_t n = p->end - p->begin; n > 0; n -= 2) {
        ask(&soon);
#pragma GCC unroll 2
        for (int word = 0; word < 2; word++) {
            if (word == n) break;
            vf weight[2];
#pragma GCC unroll 2
            for (int j = 0; j < vectors; j++) weight[j] = *panel++;
#pragma GCC unroll 12
            for (int i = 0; i < rows; i++) {
                const vf v = (vf)_mm512_set1_ps(load_one(at[i / 3] + i % 3 * step + word * 4, F32));
#pragma GCC unroll 2
                for (int j = 0; j < vectors; j++)
#if defined(__AVX512BF16__)
                    if (dtype == BF16) sum[i][j] = (vf)_mm512_dpbf16_ps((__m512)sum[i][j], (__m512bh)v, (__m512bh)weight[j]);
                    else
#endif
                        sum[i][j] += v * weight[j];
            }
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) at[i] += 8;
    }
    *ahead = soon;
    const int last = p->end * 4 == a->depth * item_size(dtype);
#pragma GCC unroll 2
    for (int j = 0; j < vectors; j++) {
        const int64_t n = p->column + j * VL;
        const int lanes = (int)min_of(VL, a->columns - n);
        const vf bias = a->bias && last ? load_row(a->bias + n * item_size(dtype), dtype, lanes) : splat(0.0f);
#pragma GCC unroll 12
        for (int i = 0; i < rows; i++) {
            if (!last) {
                *(vf *)(partial + (i * vectors + j) * VL) = sum[i][j];
                continue;
            }
            vf v = sum[i][j] * (float)a->scale + bias;
            if (a->gelu) v = gelu_vf(v, dtype != F32);
            if (a->add) v += load_row(a->add + ((row + i) * a->add_row + n) * item_size(dtype), dtype, lanes);
            store_row(a->out + ((row + i) * a->out_row + n) * item_size(dtype), dtype, lanes, v);
        }
    }
}

/* All panels [first, last) for `rows` rows from `row` on. The last block of rows overlaps the one before it. */
static void multiply_rows(const product_args *a, int64_t row, int64_t rows, int64_t first, int64_t last) {
    const int64_t deep = pieces_deep(a), tens = ceil_div(rows, 10), twelves = ceil_div(rows, 12);
    const int64_t height = rows < 10 ? 1 : tens * 10 < twelves * 12 || rows < 12 ? 10 : 12;
    const int64_t blocks = ceil_div(rows, height);
    arena scratch = arena_new(PIECE * PANEL * sizeof(float) + blocks * height * PANEL * sizeof(float));
    vf *panel = arena_take(&scratch, PIECE * PANEL * sizeof(float));
    float *partial = (float *)scratch.next;
    for (int64_t i = first * deep; i < last * deep; i++) {
        const piece p = piece_at(a, i / deep, i % deep), next = piece_at(a, (i + 1) / deep, (i + 1) % deep);
        lines_ahead ahead = {.first = weight_at(a, next.column, next.begin), .step = a->depth * item_size(a->dtype),
                             .lines = i + 1 < last * deep ? PANEL * ceil_div(next.end - next.begin, 16) : 0};
        transpose_piece(a, &p, panel);
        for (int64_t block = 0; block < blocks; block++) {
            const int64_t r = row + min_of(block * height, rows - height);
            float *sums = partial + block * height * PANEL;
#define MULTIPLY(rows_, dtype_)                                                  \
    do {                                                                         \
        if (p.vectors == 2) multiply(a, &p, panel, r, sums, &ahead, rows_, 2, dtype_);   \
        else multiply(a, &p, panel, r, sums, &ahead, rows_, 1, dtype_);                  \
    } while (0)
#define EACH_HEIGHT(dtype_)                        \
    do {                                           \
        if (height == 12) MULTIPLY(12, dtype_);    \
        else if (height == 10) MULTIPLY(10, dtype_); \
        else MULTIPLY(1, dtype_);                  \
    } while (0)
            if (a->dtype == F32) EACH_HEIGHT(F32);
            else EACH_HEIGHT(BF16);
#undef EACH_HEIGHT
#undef MULTIPLY
        }
    }
    free(scratch.base);
}

void vimzoo_product_forward(const product_args *a) {
    const int threads = (int)a->threads;
    const int64_t panels = ceil_div(a->columns, PANEL), words = a->rows * a->depth * item_size(a->dtype) / 4;
    const int64_t most = max_of(1, a->rows / FEWEST_ROWS);
    const int64_t chunks = min_of(most, max_of(words / WORDS_OF_ROWS, threads));
    const int64_t parts = min_of(panels, ceil_div(threads, chunks));
    PARALLEL_FOR(threads)
    for (int64_t task = 0; task < chunks * parts; task++) {
        const int64_t chunk = task / parts, part = task % parts, row = a->rows * chunk / chunks;
        multiply_rows(a, row, a->rows * (chunk + 1) / chunks - row, panels * part / parts, panels * (part + 1) / parts);
    }
}
#else
void vimzoo_product_forward(const product_args *a) { (void)a; }
#endif
